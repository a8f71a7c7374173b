/** The filters of the search screen. */

import { Facet } from "/web/facet.js";
import { ConeField, EnergyField, ListField, TimeField } from "/web/field.js";
import { make, setText } from "/web/dom.js";
import { activeKeys, FILTERS, findKey } from "/web/search.js";

const FACETS = {
  facility: "Facility",
  cluster: "Cluster",
  detector: "Detector",
  channel: "Channel",
  level: "Level",
  conditions: "Conditions",
  quality: "Quality",
  kind: "Kind",
  format: "Format",
  object: "Object",
};

/** What the service is asked to count by. */
export const FACET_FIELDS = Object.freeze(Object.keys(FACETS).map((key) => key.toUpperCase()));

/** `<catchment-filters>`: tells "filter-changed" with the changes of the search. */
export class Filters extends HTMLElement {
  #facets = {};
  #fields = {};
  #state = make("p", { class: "hint" }, "Counting…");

  connectedCallback() {
    for (const [key, legend] of Object.entries(FACETS)) this.#facets[key] = new Facet(key, legend);
    this.#fields = {
      time: new TimeField(),
      e: new EnergyField(),
      cone: new ConeField(),
      run: this.#makeList("run", "Runs", "30411-30450, 30460"),
      obsId: this.#makeList("obsId", "Observation ids", "as the facility writes them"),
      path: this.#makeList("path", "Path", "**/*.fits"),
    };
    // Fields would jump when the facets above them come: they appear together.
    this.classList.add("counting");
    this.append(this.#makeForm());
  }

  /** Show the search in all fields. */
  show(search) {
    for (const part of [...Object.values(this.#facets), ...Object.values(this.#fields)]) part.show(search);
    // A text that is not understood is part of no search; clearing everything clears it as well.
    if (activeKeys(search).length === 0) for (const field of Object.values(this.#fields)) field.clear();
  }

  /** Show the counts and meanings of an answer. */
  showAnswer({ canonical, facets }) {
    this.classList.remove("counting");
    this.#state.hidden = true;
    for (const { field, values } of facets) this.#facets[field.toLowerCase()].showCounts(values);
    this.#fields.time.showMeaning(canonical.time);
  }

  /** Show an error beside the filter that it blames. */
  showError(error) {
    this.classList.remove("counting");
    if (!this.#state.hidden) setText(this.#state, "The values cannot be shown.");
    if (error.field !== null) this.#fields[findKey(error.field)]?.showProblem(error.message);
  }

  #makeList(key, legend, hint) {
    return new ListField(key, legend, { hint, print: FILTERS[key].print });
  }

  #makeForm() {
    const { facility, cluster, detector, channel, level, conditions, quality, ...more } = this.#facets;
    const { time, e, cone, ...typed } = this.#fields;
    const first = [facility, cluster, detector, channel, level, time, e, cone, conditions, quality];
    const others = [...Object.values(more), ...Object.values(typed)];
    const toElement = (part) => part.element;
    return make(
      "form",
      { onsubmit: (event) => event.preventDefault() },
      this.#state,
      ...first.map(toElement),
      make("details", { open: true }, make("summary", {}, "More filters"), ...others.map(toElement)),
    );
  }
}
