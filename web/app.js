/** Puts the page together: the address says what is asked, the elements show it and tell what the reader wants. */

import { Api, ApiError, isSuperseded } from "/web/api.js";
import { FACET_FIELDS, Filters } from "/web/filters.js";
import { make, setText } from "/web/dom.js";
import { formatCount, formatCounted, formatTime, toPercent } from "/web/format.js";
import { Question } from "/web/question.js";
import { Results } from "/web/results.js";
import { activeKeys, change, describe, EVERYTHING, readAddress, toFilter, toOrder, writeAddress } from "/web/search.js";
import { spellExport, Staging } from "/web/staging.js";
import { spellAnswer, Summary } from "/web/summary.js";

const LIVE_PAUSE_MS = 2000;
const ADVICE_PARTS = 8;
const ADVICE_SHOWN = 3;
const SPOKEN_PERCENT = 25;

// What is wrong with the question itself is told by the summary, and not by the table once more.
const TOLD_ONCE = ["BAD_INPUT", "NOT_FOUND"];

/** Speaks to screen readers, at most once in a while; of several texts the last is said. */
class LiveRegion {
  #element;
  #next = null;
  #quietUntil = 0;

  constructor(element) {
    this.#element = element;
  }

  say(text) {
    clearTimeout(this.#next);
    this.#next = setTimeout(() => {
      this.#quietUntil = Date.now() + LIVE_PAUSE_MS;
      setText(this.#element, text);
    }, Math.max(0, this.#quietUntil - Date.now()));
  }
}

/** What both screens do: ask for summary and files side by side, show them, prepare them. */
class Screen {
  #after = null;
  #spokenStep = null;
  answer = null;
  sort = EVERYTHING.sort;

  constructor(page, api) {
    this.page = page;
    this.api = api;
    this.listen("retry-asked", () => this.ask());
    this.listen("more-asked", () => this.#askMore());
    this.listen("prepare-asked", () => page.staging.prepare(this.answer.queryId));
    this.listen("sort-changed", ({ field }) => this.changeSort(this.sort === field ? `-${field}` : field));
    this.listen("export-changed", (detail) => this.#showExport(detail.export));
  }

  listen(name, act) {
    document.addEventListener(name, (event) => act(event.detail));
  }

  /** Ask everything anew. */
  ask() {
    this.answer = null;
    this.page.summary.showAsking();
    this.#receive(this.askSummary(), (answer) => this.showAnswer(answer), (error) => this.showError(error));
    this.askFiles();
  }

  /** Ask for the first page of files anew. */
  askFiles() {
    const { results } = this.page;
    results.showAsking();
    results.showSort(this.sort);
    this.#receive(
      this.askPage(null),
      (page) => this.#showPage(page, "showPage"),
      ({ code, message }) => results.showError(TOLD_ONCE.includes(code) ? "" : message, { isFirstPage: true }),
    );
  }

  /** Show an answer; what belongs to one screen only is added there. */
  showAnswer(answer) {
    const { summary, results, staging } = this.page;
    this.answer = answer;
    summary.showAnswer(answer);
    results.showTotal(answer.totalCount);
    staging.show(answer.queryId, answer.export);
    this.page.live.say(spellAnswer(answer));
    if (answer.export === null) this.showTitle(null);
  }

  /** Show why there is no answer. */
  showError(error) {
    this.page.summary.showError(error);
    this.page.staging.close();
  }

  #askMore() {
    const { results } = this.page;
    results.showAskingMore();
    this.#receive(
      this.askPage(this.#after),
      (page) => this.#showPage(page, "appendPage"),
      ({ message }) => results.showError(message, { isFirstPage: false }),
    );
  }

  #showPage(page, way) {
    this.#after = page.pageInfo.endCursor;
    this.page.results[way](page);
  }

  #showExport(found) {
    this.page.summary.showPrepared();
    this.showTitle(found);
    const percent = toPercent(found.progress.bytesDone, found.bytesTotal);
    const step = found.state === "WRITING" ? Math.floor(percent / SPOKEN_PERCENT) : found.state;
    if (step !== this.#spokenStep) this.page.live.say(spellExport(found));
    this.#spokenStep = step;
  }

  /** Hand an answer on; one whose place a newer question took is dropped, and a mistake of ours is not hidden. */
  async #receive(asked, show, tell) {
    let answer;
    try {
      answer = await asked;
    } catch (error) {
      if (isSuperseded(error)) return;
      if (!(error instanceof ApiError)) throw error;
      tell(error);
      return;
    }
    show(answer);
  }
}

/** The search: the address is the search, and each change of it is asked at once. */
class SearchScreen extends Screen {
  #search = EVERYTHING;
  #typed = null;

  constructor(page, api) {
    super(page, api);
    this.listen("filter-changed", ({ changes, typed = null }) => this.#go(change(this.#search, changes), typed));
    this.listen("search-replaced", ({ search }) => this.#go(search));
    addEventListener("popstate", () => this.open());
  }

  /** Show the search of the address. */
  open() {
    const { search, problems } = readAddress(location.search);
    this.#typed = null;
    this.page.notice.hidden = problems.length === 0;
    setText(this.page.notice, problems.join(" "));
    this.#show(search);
    this.ask();
  }

  askSummary() {
    return this.api.searchSummary(toFilter(this.#search), FACET_FIELDS);
  }

  askPage(after) {
    return this.api.searchFiles(toFilter(this.#search), toOrder(this.#search), after);
  }

  changeSort(sort) {
    this.#keep(change(this.#search, { sort }));
    this.askFiles();
  }

  showAnswer(answer) {
    super.showAnswer(answer);
    this.page.filters.showAnswer(answer);
    this.page.summary.showFilters(this.#search, answer.canonical);
    if (answer.totalCount.value === 0) this.#advise(answer);
  }

  showError(error) {
    super.showError(error);
    this.page.filters.showError(error);
  }

  showTitle(found) {
    document.title = `${found === null ? "" : `${spellExport(found)} – `}Search – Catchment`;
  }

  #go(search, typed = null) {
    if (writeAddress(search) === writeAddress(this.#search)) return;
    this.#keep(search, typed);
    this.ask();
  }

  /** Keep the search in the address: each change is one step back, but the letters of one word are one. */
  #keep(search, typed = null) {
    const address = `/${writeAddress(search)}`;
    if (typed !== null && typed === this.#typed) history.replaceState(null, "", address);
    else history.pushState(null, "", address);
    this.#typed = typed;
    this.page.notice.hidden = true;
    this.#show(search);
  }

  #show(search) {
    const { filters, summary, drawer } = this.page;
    this.#search = search;
    this.sort = search.sort;
    filters.show(search);
    summary.showFilters(search);
    drawer.showCount(activeKeys(search).length);
  }

  /** Say which filter to leave out when all of them together match nothing. */
  async #advise(answer) {
    const parts = describe(this.#search, answer.canonical).slice(0, ADVICE_PARTS);
    try {
      const counts = await this.api.searchCounts(parts.map(({ rest }) => toFilter(rest)));
      if (this.answer !== answer) return;
      const better = parts.map((part, at) => ({ ...part, count: counts[at] })).filter(({ count }) => count > 0);
      this.page.summary.showAdvice(better.sort((a, b) => b.count - a.count).slice(0, ADVICE_SHOWN));
    } catch (error) {
      if (!isSuperseded(error) && !(error instanceof ApiError)) throw error;
    }
  }
}

/** One known query, by its id: what it asks, its answer, its export; as of now, or of a revision of the catalogue. */
class QueryScreen extends Screen {
  #id;
  #asOf;

  constructor(page, api, id, revision) {
    super(page, api);
    this.#id = id;
    this.#asOf = page.staging.asOf = revision === undefined ? null : { revision };
  }

  open() {
    this.page.filters.hidden = true;
    setText(this.page.heading, "Query");
    this.showTitle(null);
    this.ask();
  }

  askSummary() {
    return this.#known(this.api.querySummary(this.#id, this.#asOf));
  }

  askPage(after) {
    return this.#known(this.api.queryFiles(this.#id, this.#asOf, toOrder({ sort: this.sort }), after));
  }

  changeSort(sort) {
    this.sort = sort;
    this.askFiles();
  }

  showAnswer(answer) {
    super.showAnswer(answer);
    this.page.question.hidden = false;
    this.page.question.show(answer.canonical);
    this.page.question.showCitation(answer);
    if (this.#asOf !== null) this.#tellAge(answer);
  }

  showTitle(found) {
    document.title = `${found === null ? "" : `${spellExport(found)} – `}Query ${this.#id.slice(0, 8)} – Catchment`;
  }

  /** Say plainly that this is an earlier state, and how many files have changed since. */
  async #tellAge(answer) {
    const state = `As of revision ${answer.revision}${answer.asOf === null ? "" : `, ${formatTime(answer.asOf)} UTC`}`;
    const now = make("a", { href: `/q/${encodeURIComponent(this.#id)}` }, "Open it as of now");
    const tell = (since) => this.page.notice.replaceChildren(`${state}${since}. `, now);
    this.page.notice.hidden = false;
    tell("");
    try {
      const count = await this.api.changesSince(this.#id, answer.revision);
      if (this.answer === answer) tell(count === 0 ? "; nothing newer" : `; newer: ${formatCounted(count, "file")} since`);
    } catch (error) {
      if (!isSuperseded(error) && !(error instanceof ApiError)) throw error;
    }
  }

  async #known(asked) {
    let message = `No query has the id “${this.#id}” here. An id is known once its search was asked at this site.`;
    try {
      const answer = await asked;
      if (answer !== null) return answer;
    } catch (error) {
      if (error.field !== "asOf.revision") throw error;
      message = `There is no revision ${this.#asOf.revision} here yet.`;
    }
    throw new ApiError(message, { code: "NOT_FOUND" });
  }
}

/** On narrow screens the filters are out of the way until they are wanted. */
class Drawer {
  #button = document.getElementById("drawer");
  #count = 0;

  constructor() {
    this.#button.addEventListener("click", () => {
      this.#button.setAttribute("aria-expanded", String(!this.#isOpen()));
      this.showCount(this.#count);
    });
  }

  showCount(count) {
    this.#count = count;
    setText(this.#button, `${this.#isOpen() ? "Hide" : "Show"}${count ? ` (${formatCount(count)} set)` : ""}`);
  }

  #isOpen() {
    return this.#button.getAttribute("aria-expanded") === "true";
  }
}

function start() {
  const elements = { filters: Filters, question: Question, results: Results, staging: Staging, summary: Summary };
  const page = {
    notice: document.getElementById("notice"),
    heading: document.getElementById("side-heading"),
    live: new LiveRegion(document.getElementById("live")),
    drawer: new Drawer(),
  };
  for (const [name, element] of Object.entries(elements)) {
    customElements.define(`catchment-${name}`, element);
    page[name] = document.querySelector(`catchment-${name}`);
  }
  const api = new Api();
  page.staging.api = api;
  const match = location.pathname.match(/^\/q\/([^/@]+)(?:@(\d+))?\/?$/);
  const screen = match === null ? new SearchScreen(page, api) : new QueryScreen(page, api, match[1], match[2]);
  screen.open();
}

start();
