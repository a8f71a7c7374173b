/** What a known query asks, on its own screen, where nothing can be changed. */

import { make, patch, setText } from "/web/dom.js";
import { describe, fromCanonical, writeAddress } from "/web/search.js";

/** `<catchment-question>`. */
export class Question extends HTMLElement {
  #terms = make("dl");
  #text = make("pre", { tabindex: "0", role: "region", "aria-label": "Canonical form" });
  #change = make("a", { class: "button" }, "Change these filters");
  #unknown = make("p", { class: "hint", hidden: true });
  #citation = make("p");
  #cited = make("a", {}, "This answer, for ever");

  connectedCallback() {
    const canonical = make("details", {}, make("summary", {}, "Canonical form"), this.#text);
    const cite = make("details", {}, make("summary", {}, "Cite"), this.#citation, make("p", {}, this.#cited));
    this.append(this.#terms, make("p", {}, this.#change), this.#unknown, cite, canonical);
  }

  /** Show a canonical form: its filters in words, as it is, and as a search that can be changed. */
  show(canonical) {
    const { search, unknown } = fromCanonical(canonical);
    const terms = describe(search, canonical).map(({ label, text }) => [label, text]);
    terms.push(...unknown.map((name) => [name, JSON.stringify(canonical[name])]));
    patch(this.#terms, terms.length ? terms : [["filters", "none: all files"]], {
      key: (term) => JSON.stringify(term),
      create: ([label, text]) => make("div", {}, make("dt", {}, label), make("dd", {}, text)),
    });
    setText(this.#text, JSON.stringify(canonical, null, 2));
    this.#change.href = `/${writeAddress(search)}`;
    this.#unknown.hidden = unknown.length === 0;
    setText(this.#unknown, `The search page has no field for ${unknown.join(", ")}; it would be left out there.`);
  }
  /** Show how an answer is cited, and the address that always opens it. */
  showCitation({ citation, citeUrl }) {
    const [before, after] = citation.split(citeUrl);
    setText(this.#citation, `${before}${new URL(citeUrl, location.origin).href}${after}`);
    this.#cited.href = citeUrl;
  }
}
