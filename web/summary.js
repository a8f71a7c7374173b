/** The head of an answer: how many files, how large, for which filters, and the button that prepares them. */

import { emit, make, patch, setText } from "/web/dom.js";
import { formatBytes, formatCounted, formatExactBytes, spellBytes } from "/web/format.js";
import { describe, EVERYTHING } from "/web/search.js";

/**
 * `<catchment-summary>`: tells "search-replaced" with a new search, "prepare-asked" and "retry-asked".
 *
 * Old numbers stay, faded, while new ones are on their way; how soon they fade is the stylesheet's matter.
 */
export class Summary extends HTMLElement {
  #count = make("strong", {}, "…");
  #bytes = make("span");
  #numbers = make("p", { class: "numbers", tabindex: "-1" }, this.#count, " ", this.#bytes);
  #prepare = make("button", { type: "button", class: "main", disabled: true }, "Prepare");
  #chips = make("ul", { class: "chips", "aria-label": "Filters in force" });
  #none = make("span", { class: "hint" }, "No filter is set: this is the whole collection.");
  #clear = make("button", { type: "button", class: "plain", hidden: true }, "Clear all");
  #chipRow = make("div", { class: "chip-row", hidden: true }, this.#chips, this.#none, this.#clear);
  #message = make("p", { class: "problem", role: "alert", hidden: true });
  #advice = make("div", { class: "advice", hidden: true });

  connectedCallback() {
    this.append(make("div", { class: "head" }, this.#numbers, this.#prepare), this.#chipRow, this.#message, this.#advice);
    this.#prepare.addEventListener("click", () => emit(this, "prepare-asked"));
    this.#clear.addEventListener("click", () => this.#replace(EVERYTHING, null));
  }

  /** Show that a search is being asked. */
  showAsking() {
    this.classList.add("stale");
    this.#prepare.disabled = true;
    this.#message.hidden = true;
    this.#advice.hidden = true;
  }

  /** Show what a search says, each part with a button that takes it away. */
  showFilters(search, canonical) {
    const parts = describe(search, canonical);
    this.#chipRow.hidden = false;
    this.#clear.hidden = parts.length === 0;
    this.#none.hidden = parts.length > 0;
    patch(this.#chips, parts, {
      key: ({ key, label, text }) => JSON.stringify([key, label, text]),
      create: ({ label, text }) => this.#makeChip(label, text),
      update: (chip, { rest }) => (chip.rest = rest),
    });
  }

  /** Show the numbers of an answer. */
  showAnswer({ totalCount, totalBytes }) {
    this.classList.remove("stale");
    this.#prepare.disabled = totalCount.value === 0;
    this.#prepare.hidden = false;
    setText(this.#count, `${totalCount.isEstimate ? "about " : ""}${formatCounted(totalCount.value, "file")}`);
    setText(this.#bytes, formatBytes(totalBytes));
    this.#bytes.title = formatExactBytes(totalBytes);
  }

  /** Show that there is nothing left to ask for: the files are being prepared or ready. */
  showPrepared() {
    this.#prepare.hidden = true;
  }

  /** Show why there is no answer, and what can be done about it. */
  showError({ code, message }) {
    this.classList.remove("stale");
    this.#prepare.hidden = false;
    setText(this.#count, "–");
    setText(this.#bytes, "");
    this.#message.replaceChildren(message, " ", this.#makeWayOut(code));
    this.#message.hidden = false;
  }

  /** Name the filters to blame for an answer without files: `[{label, text, rest, count}]`, the best first. */
  showAdvice(parts) {
    this.#advice.hidden = parts.length === 0;
    this.#advice.replaceChildren(...parts.map((part) => this.#makeAdvice(part)));
  }

  #makeWayOut(code) {
    if (code === "NOT_FOUND") return make("a", { href: "/" }, "Start a new search");
    if (code === "BAD_INPUT") return make("span", {}, "Change or remove this filter.");
    return make("button", { type: "button", onclick: () => emit(this, "retry-asked") }, "Try again");
  }

  #makeChip(label, text) {
    const takeAway = make("button", { type: "button", "aria-label": `Remove ${label} ${text}`, title: "Remove" }, "×");
    const chip = make("li", {}, make("span", { class: "label" }, label), ` ${text}`, takeAway);
    takeAway.addEventListener("click", () => this.#replace(chip.rest, chip));
    return chip;
  }

  /** Ask for another search; the button pressed goes away, so the focus moves to what stands beside it. */
  #replace(search, chip) {
    const neighbour = chip?.nextElementSibling ?? chip?.previousElementSibling;
    (neighbour?.querySelector("button") ?? this.#numbers).focus();
    emit(this, "search-replaced", { search });
  }

  #makeAdvice({ label, text, rest, count }) {
    const onclick = () => this.#replace(rest, null);
    return make("p", {}, `Without ${label} ${text} there would be ${formatCounted(count, "file")}. `,
      make("button", { type: "button", onclick }, "Leave it out"));
  }
}

/** Return the numbers of an answer as a screen reader should say them. */
export function spellAnswer({ totalCount, totalBytes }) {
  return `${formatCounted(totalCount.value, "file")}, ${spellBytes(totalBytes)}`;
}
