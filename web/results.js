/** The table of files. */

import { emit, make, patch, setAttribute, setText } from "/web/dom.js";
import { formatBytes, formatCount, formatExactBytes, formatExactTime, formatTime } from "/web/format.js";

const COLUMNS = [
  { title: "File", sort: "path", className: "path", makeCell: makePathCell },
  { title: "Facility", makeCell: ({ facility }) => make("td", {}, facility) },
  { title: "Cluster", makeCell: ({ cluster }) => make("td", {}, cluster ?? "") },
  { title: "Start (UTC)", sort: "start", makeCell: makeTimeCell },
  { title: "Level", makeCell: ({ level }) => make("td", {}, level ?? "") },
  { title: "Kind", makeCell: ({ kind }) => make("td", {}, kind ?? "") },
  { title: "Size", sort: "size", className: "number", makeCell: makeSizeCell },
];

const PLACEHOLDER_ROWS = 8;

/** `<catchment-results>`: tells "sort-changed", "more-asked" and "retry-asked". */
export class Results extends HTMLElement {
  #files = [];
  #total = null;
  #heads = COLUMNS.map((column) => this.#makeHead(column));
  #body = make("tbody");
  #table = make("table", {}, make("caption", { class: "unseen" }, "Files that match"),
    make("thead", {}, make("tr", { "aria-rowindex": "1" }, ...this.#heads)), this.#body);
  #range = make("span");
  #more = make("button", { type: "button", hidden: true, onclick: () => emit(this, "more-asked") }, "Show more");
  #message = make("p", { hidden: true });

  connectedCallback() {
    const scroller = { class: "scroller", tabindex: "0", role: "region", "aria-label": "Files" };
    const foot = make("p", { class: "foot" }, this.#range, " ", this.#more);
    this.append(make("div", scroller, this.#table), this.#message, foot);
    this.#showPlaceholders();
  }

  /** Show the order of the files. */
  showSort(sort) {
    for (const [at, { sort: field }] of COLUMNS.entries()) {
      const direction = { [field]: "ascending", [`-${field}`]: "descending" }[sort];
      setAttribute(this.#heads[at], "aria-sort", field && direction ? direction : null);
    }
  }

  /** Show that the first page is being asked. */
  showAsking() {
    this.classList.add("stale");
    this.setAttribute("aria-busy", "true");
    this.#message.hidden = true;
    this.#more.hidden = true;
  }

  /** Show that a further page is being asked. */
  showAskingMore() {
    this.#more.disabled = true;
    setText(this.#more, "Asking…");
  }

  /** Show the first page of files. */
  showPage(page) {
    this.#files = [];
    this.#body.replaceChildren();
    this.appendPage(page);
    this.#message.hidden = page.nodes.length > 0;
    setText(this.#message, page.nodes.length ? "" : "No files match all of these filters.");
  }

  /** Show a further page of files below the others. */
  appendPage({ nodes, pageInfo }) {
    this.#settle();
    this.#files = [...this.#files, ...nodes];
    this.#more.hidden = !pageInfo.hasNextPage;
    patch(this.#body, this.#files, { key: ({ id }) => id, create: makeRow, update: numberRow(this.#files) });
    this.#showRange();
  }

  /** Show of how many files these are the first. */
  showTotal({ value, isEstimate }) {
    this.#total = value;
    this.#table.setAttribute("aria-rowcount", isEstimate ? -1 : value + 1);
    this.#showRange();
  }

  /** Show why there is no page; files that are there already stay when only the next ones are missing. */
  showError(message, { isFirstPage }) {
    this.#settle();
    if (isFirstPage) this.showPage({ nodes: [], pageInfo: { hasNextPage: false } });
    this.#message.hidden = message === "";
    const retry = isFirstPage ? "retry-asked" : "more-asked";
    this.#message.replaceChildren(message, " ",
      make("button", { type: "button", onclick: () => emit(this, retry) }, "Try again"));
  }

  #makeHead({ title, sort, className = null }) {
    const content = sort
      ? make("button", { type: "button", onclick: () => emit(this, "sort-changed", { field: sort }) }, title)
      : title;
    return make("th", { scope: "col", class: className }, content);
  }

  #settle() {
    this.classList.remove("stale");
    this.removeAttribute("aria-busy");
    this.#message.hidden = true;
    this.#more.disabled = false;
    setText(this.#more, "Show more");
  }

  #showRange() {
    const shown = this.#files.length;
    const total = this.#total === null ? "" : ` of ${formatCount(this.#total)}`;
    setText(this.#range, shown === 0 ? "" : `rows 1–${formatCount(shown)}${total}`);
  }

  /** Hold the table's place until its first page is there. */
  #showPlaceholders() {
    const cells = () => COLUMNS.map(() => make("td", {}, "\u00a0"));
    this.#body.append(...Array.from({ length: PLACEHOLDER_ROWS }, () => make("tr", { class: "placeholder" }, cells())));
    this.showAsking();
  }
}

function makeRow(file) {
  return make("tr", {}, ...COLUMNS.map(({ makeCell }) => makeCell(file)));
}

function numberRow(files) {
  const indexes = new Map(files.map(({ id }, at) => [id, at + 2]));
  return (row, { id }) => setAttribute(row, "aria-rowindex", indexes.get(id));
}

/** Folder and name apart: when room is short the folder is cut, never the name. */
function makePathCell({ storage, path }) {
  const end = path.lastIndexOf("/") + 1;
  const folder = make("span", { class: "folder" }, path.slice(0, end));
  const name = make("span", { class: "name" }, path.slice(end));
  return make("td", { class: "path", title: `${path} in ${storage}` }, make("div", {}, folder, name));
}

function makeTimeCell({ timeBegin }) {
  return make("td", { class: "time", title: formatExactTime(timeBegin) }, formatTime(timeBegin));
}

function makeSizeCell({ sizeBytes }) {
  return make("td", { class: "number", title: formatExactBytes(sizeBytes) }, formatBytes(sizeBytes));
}
