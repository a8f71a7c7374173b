/** The full response: asked for, watched while it grows, taken when it is there. */

import { emit, make, setAttribute, setText } from "/web/dom.js";
import { formatBytes, formatCount, formatCounted, formatExactTime, formatTime, toPercent } from "/web/format.js";
import { ApiError, isSuperseded } from "/web/api.js";

const POLL_MS = 1000;
const COPIED_MS = 2000;

const UNDER_WAY = ["INITIALIZED", "WRITING"];

/** What each state of an export is called, what it says, and what its button to go on says. */
const STATES = {
  INITIALIZED: { title: () => "Waiting to start", tell: tellWork },
  WRITING: { title: ({ filesTotal }) => `Preparing ${formatCounted(filesTotal, "file")}`, tell: tellProgress },
  COMPLETED: { title: ({ progress }) => (progress.filesFailed ? "Ready, with gaps" : "Ready"), tell: tellContent },
  ERROR: { title: () => "Preparing failed", tell: ({ error }) => error ?? "No reason was given.", again: "Try again" },
  CANCELLED: { title: () => "Cancelled", tell: () => "Nothing is kept of it.", again: "Prepare again" },
  EXPIRED: { title: () => "Removed", tell: () => "It was not used for a while.", again: "Prepare again" },
  DELETED: { title: () => "Removed", tell: () => "It was not used for a while.", again: "Prepare again" },
};

/**
 * `<catchment-staging>`: tells "export-changed" with each new state of the export; `api` must be set first.
 *
 * `asOf` is the moment whose files are prepared, `{revision}`, or null for now.
 */
export class Staging extends HTMLElement {
  asOf = null;
  #export = null;
  #queryId = null;
  #timer = null;
  #title = make("h2", { tabindex: "-1" });
  #address = make("a");
  #bar = make("progress", { max: "100", "aria-label": "Prepared" });
  #text = make("p");
  #gaps = make("p", { class: "warning" });
  #problem = make("p", { class: "problem", role: "alert" });
  #download = make("a", { class: "button main", download: "" }, "Download ZIP");
  #manifest = make("a", { class: "button" }, "Manifest");
  #curl = make("input", { type: "text", readonly: true, "aria-label": "Command for curl" });
  #copy = make("button", { type: "button", onclick: () => this.#copyCurl() }, "Copy");
  #copied = make("span", { role: "status" });
  #ready = make(
    "div",
    {},
    make("p", { class: "actions" }, this.#download, this.#manifest),
    make("p", { class: "command" }, this.#curl, this.#copy, this.#copied),
  );
  #cancel = make("button", { type: "button", onclick: () => this.#askToCancel() }, "Cancel");
  #again = make("button", { type: "button", onclick: () => this.prepare(this.#queryId) });
  #keep = make("p", { class: "hint" }, "You may close this page; the address of the query keeps the result.");

  connectedCallback() {
    this.#curl.addEventListener("focus", () => this.#curl.select());
    const head = make("div", { class: "head" }, this.#title, make("span", {}, "query ", this.#address));
    const actions = make("p", { class: "actions" }, this.#cancel, this.#again);
    this.append(head, this.#bar, this.#text, this.#gaps, this.#problem, this.#ready, actions, this.#keep);
  }

  /** Ask for the full response of a query, and watch it. */
  async prepare(queryId) {
    this.#open(queryId);
    this.#export = null;
    this.#showParts({ title: "Asking for the files", text: "", isUnderWay: true });
    this.#title.focus();
    await this.#request(() => this.api.prepare(queryId, this.asOf));
  }

  /** Show the export of a query as it is known, and watch it; null closes the panel. */
  show(queryId, found) {
    if (found === null) this.close();
    else {
      this.#open(queryId);
      this.#showExport(found);
    }
  }

  /** Put the panel away; the work goes on. */
  close() {
    clearTimeout(this.#timer);
    this.api.abort("export");
    this.#queryId = this.#export = null;
    this.hidden = true;
  }

  #open(queryId) {
    clearTimeout(this.#timer);
    this.#queryId = queryId;
    this.hidden = false;
    const moment = this.asOf === null ? "" : `@${this.asOf.revision}`;
    this.#address.href = `/q/${encodeURIComponent(queryId)}${moment}`;
    setText(this.#address, queryId.slice(0, 8));
    this.#address.title = queryId;
  }

  /** Ask for the export in some way; a failure leaves what is shown, and says that it is being tried again. */
  async #request(ask) {
    clearTimeout(this.#timer);
    try {
      const found = await ask();
      if (found !== null) this.#showExport(found);
      else this.#showProblem("This export is no longer known.");
    } catch (error) {
      if (isSuperseded(error)) return;
      if (!(error instanceof ApiError)) throw error;
      const isWatched = UNDER_WAY.includes(this.#export?.state);
      this.#showProblem(isWatched ? `${error.message} Trying again.` : error.message);
      if (isWatched) this.#watch();
    }
  }

  #askToCancel() {
    return this.#request(() => this.api.cancel(this.#export.id));
  }

  #watch() {
    clearTimeout(this.#timer);
    const { id } = this.#export;
    this.#timer = setTimeout(() => this.#request(() => this.api.export(id)), POLL_MS);
  }

  #showExport(found) {
    this.#export = found;
    const { title, tell, again = null } = STATES[found.state];
    const isUnderWay = UNDER_WAY.includes(found.state);
    const isReady = found.state === "COMPLETED";
    this.#showParts({ title: title(found), text: tell(found), isUnderWay, isReady, again });
    if (found.state === "WRITING") this.#bar.value = toPercent(found.progress.bytesDone, found.bytesTotal);
    setText(this.#gaps, tellGaps(found));
    this.#gaps.hidden = found.progress.filesFailed === 0 || !(isUnderWay || isReady);
    if (isReady) this.#showLinks(found);
    emit(this, "export-changed", { export: found });
    if (isUnderWay) this.#watch();
  }

  #showParts({ title, text, isUnderWay, isReady = false, again = null }) {
    setText(this.#title, title);
    setText(this.#text, text);
    this.#problem.hidden = this.#gaps.hidden = true;
    this.#bar.hidden = this.#keep.hidden = !isUnderWay;
    this.#bar.removeAttribute("value");
    this.#ready.hidden = !isReady;
    this.#cancel.hidden = !isUnderWay || this.#export === null;
    this.#again.hidden = again === null;
    setText(this.#again, again ?? "");
  }

  #showProblem(message) {
    const isUnasked = this.#export === null;
    if (isUnasked) this.#showParts({ title: "Not prepared", text: "", isUnderWay: false, again: "Try again" });
    this.#problem.hidden = false;
    setText(this.#problem, message);
  }

  #showLinks({ queryId, completedAt, archiveUrl, manifestUrl }) {
    this.#download.href = archiveUrl;
    this.#manifest.href = manifestUrl;
    setAttribute(this.#title, "title", formatExactTime(completedAt));
    const address = new URL(archiveUrl, location.origin).href.replaceAll("'", "%27");
    this.#curl.value = `curl --fail --continue-at - --output ${queryId}.zip '${address}'`;
  }

  async #copyCurl() {
    try {
      await navigator.clipboard.writeText(this.#curl.value);
      setText(this.#copied, "Copied");
    } catch {
      // Browsers lend the clipboard to encrypted pages only, and not always; the keyboard works everywhere.
      this.#curl.focus();
      setText(this.#copied, "Press Ctrl+C to copy");
    }
    setTimeout(() => setText(this.#copied, ""), COPIED_MS);
  }
}

/** Return how far an export is, in a few words for the title of the page and for screen readers. */
export function spellExport({ state, bytesTotal, filesTotal, progress }) {
  if (state !== "WRITING") return STATES[state].title({ filesTotal, progress });
  return `${toPercent(progress.bytesDone, bytesTotal)} %`;
}

function tellWork({ filesTotal, bytesTotal }) {
  return `${formatCounted(filesTotal, "file")}, ${formatBytes(bytesTotal)} to prepare.`;
}

function tellProgress({ filesTotal, bytesTotal, progress: { filesDone, bytesDone } }) {
  const percent = `${toPercent(bytesDone, bytesTotal)} %`;
  const files = `${formatCount(filesDone)} of ${formatCounted(filesTotal, "file")}`;
  return `${percent}, ${files}, ${formatBytes(bytesDone)} of ${formatBytes(bytesTotal)}`;
}

function tellContent({ filesTotal, completedAt, progress: { filesDone, filesFailed, bytesDone } }) {
  const files = `${filesFailed ? `${formatCount(filesDone)} of ` : ""}${formatCounted(filesTotal, "file")}`;
  return `${files}, ${formatBytes(bytesDone)}, prepared on ${formatTime(completedAt)} UTC.`;
}

function tellGaps({ state, filesTotal, progress: { filesFailed } }) {
  const files = `${formatCount(filesFailed)} of ${formatCounted(filesTotal, "file")}`;
  if (state === "WRITING") return `${files} could not be read so far.`;
  return `${files} ${filesFailed === 1 ? "is" : "are"} missing; the manifest names each with its reason.`;
}
