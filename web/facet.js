/** One facet: the values of a field as checkboxes, each with the number of files that a click would give. */

import { emit, make, patch, setAttribute, setText } from "/web/dom.js";
import { formatCount, formatCounted } from "/web/format.js";

const SHOWN_VALUES = 7;

/** Facet of the filter `key`; its element tells "filter-changed" with the chosen values. */
export class Facet {
  #key;
  #counts = new Map();
  #known = new Set();
  #isCounted = false;
  #chosen = [];
  #expanded = false;
  #list = make("ul");
  #more = make("button", { type: "button", class: "plain", onclick: () => this.#toggle() });

  constructor(key, legend) {
    this.#key = key;
    this.element = make("fieldset", { hidden: true }, make("legend", {}, legend), this.#list, this.#more);
  }

  /** Tick the chosen values of the search. */
  show(search) {
    this.#chosen = search[this.#key] ?? [];
    this.#draw();
  }

  /** Show the counts of an answer: `[{value, count}]`, most frequent first. */
  showCounts(counts) {
    this.#counts = new Map(counts.map(({ value, count }) => [value, count]));
    for (const value of this.#counts.keys()) this.#known.add(value);
    this.#isCounted = true;
    this.#draw();
  }

  #draw() {
    const values = this.#values();
    const shown = values.filter(({ value }, at) => this.#expanded || at < SHOWN_VALUES || this.#chosen.includes(value));
    const largest = Math.max(1, ...values.map(({ count }) => count ?? 0));
    this.element.hidden = values.length === 0;
    this.#more.hidden = values.length <= SHOWN_VALUES;
    setText(this.#more, this.#expanded ? "Show fewer" : `Show all ${values.length}`);
    setAttribute(this.#more, "aria-expanded", String(this.#expanded));
    patch(this.#list, shown, {
      key: ({ value }) => value,
      create: ({ value }) => this.#createRow(value),
      update: (row, { value, count }) => this.#updateRow(row, { value, count, share: (count ?? 0) / largest }),
    });
  }

  /** The counted values first; those of earlier answers stay, and chosen ones, or they could not be taken back. */
  #values() {
    const others = this.#isCounted ? 0 : null;
    const values = new Set([...this.#counts.keys(), ...this.#chosen, ...this.#known]);
    return [...values].map((value) => ({ value, count: this.#counts.get(value) ?? others }));
  }

  #createRow(value) {
    const box = make("input", { type: "checkbox", onchange: () => this.#choose(value, box.checked) });
    const label = make("label", { title: value }, box, make("span", { class: "value" }, value), make("data"));
    return make("li", {}, label);
  }

  #updateRow(row, { value, count, share }) {
    const [box, number] = [row.querySelector("input"), row.querySelector("data")];
    box.checked = this.#chosen.includes(value);
    row.classList.toggle("none", count === 0);
    row.style.setProperty("--share", share);
    number.value = count ?? "";
    setText(number, count === null ? "" : formatCount(count));
    setAttribute(number, "aria-label", count === null ? null : formatCounted(count, "file"));
  }

  #choose(value, wanted) {
    const others = this.#chosen.filter((one) => one !== value);
    emit(this.element, "filter-changed", { changes: { [this.#key]: wanted ? [...others, value].sort() : others } });
  }

  #toggle() {
    this.#expanded = !this.#expanded;
    this.#draw();
  }
}
