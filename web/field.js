/** Filters that are typed: each reads its inputs into the grammar of the address, see search.js. */

import { emit, make, setAttribute, setText } from "/web/dom.js";
import { describeInterval, ENERGY_UNITS, FilterError, parse, TIME_KEYS } from "/web/search.js";

const TYPING_PAUSE_MS = 200;

/**
 * One typed filter: a group of labelled inputs, and room for what is wrong with them.
 *
 * A kind of field says what its inputs mean (`text`) and how a value is shown in them (`fill`). `element` tells
 * "filter-changed" once the typing pauses; `typed` names the filter, so that one word makes one step of the history
 * and not one per letter.
 */
class Field {
  #shown = null;
  #pause = null;
  #problem = make("p", { class: "problem", hidden: true });

  constructor(key, legend, rows) {
    this.key = key;
    this.#problem.id = `problem-${key}`;
    this.element = make("fieldset", {}, make("legend", {}, legend), ...rows, this.#problem);
    this.element.addEventListener("input", () => this.#wait(TYPING_PAUSE_MS));
    this.element.addEventListener("change", () => this.#wait(0));
  }

  /** Show the search; inputs stay as they are when they say the same, or when this filter did not change. */
  show(search) {
    const value = this.pick(search);
    const text = JSON.stringify(value);
    if (text !== this.#shown) {
      if (text !== JSON.stringify(this.#read())) this.fill(value);
      this.showProblem("");
    }
    this.#shown = text;
  }

  /** Empty the inputs, also of what is no value. */
  clear() {
    clearTimeout(this.#pause);
    this.fill(this.pick({}));
    this.showProblem("");
  }

  /** Show what is wrong with this filter; an empty text takes the message away. */
  showProblem(text) {
    this.#problem.hidden = text === "";
    setText(this.#problem, text);
    for (const input of this.element.querySelectorAll("input")) {
      setAttribute(input, "aria-invalid", text === "" ? null : "true");
      setAttribute(input, "aria-describedby", text === "" ? null : this.#problem.id);
    }
  }

  /** Return this field's part of a search, as `changes` gives it. */
  pick(search) {
    return { [this.key]: search[this.key] ?? null };
  }

  /** Return the changes of the search that the inputs ask for; raises FilterError. */
  changes() {
    return { [this.key]: parse(this.key, this.text()) };
  }

  #read() {
    try {
      return this.changes();
    } catch (error) {
      if (error instanceof FilterError) return null;
      throw error;
    }
  }

  #wait(milliseconds) {
    clearTimeout(this.#pause);
    this.#pause = setTimeout(() => this.#tell(), milliseconds);
  }

  #tell() {
    try {
      const changes = this.changes();
      this.showProblem("");
      this.#shown = JSON.stringify(changes);
      emit(this.element, "filter-changed", { changes, typed: this.key });
    } catch (error) {
      if (!(error instanceof FilterError)) throw error;
      this.showProblem(error.message);
    }
  }
}

/** A filter of one line: several values with commas between them. */
export class ListField extends Field {
  #input;

  constructor(key, legend, { hint, print }) {
    const input = make("input", { type: "text", "aria-label": legend, placeholder: hint, autocomplete: "off" });
    super(key, legend, [input]);
    this.#input = input;
    this.print = print;
  }

  text() {
    return this.#input.value;
  }

  fill(changes) {
    const value = changes[this.key];
    this.#input.value = value === null ? "" : this.print(value);
  }
}

/** An interval of energy and its unit. */
export class EnergyField extends Field {
  #min;
  #max;
  #unit;

  constructor() {
    const [min, max] = [makeNumber(), makeNumber()];
    const unit = makeSelect(ENERGY_UNITS.map((name) => [name, name]), "TeV");
    super("e", "Energy", [makeRow(labelled("Min", min), labelled("Max", max), labelled("Unit", unit))]);
    [this.#min, this.#max, this.#unit] = [min, max, unit];
  }

  text() {
    return `${this.#min.value}..${this.#max.value}${this.#unit.value}`;
  }

  fill({ e }) {
    this.#min.value = e?.min ?? "";
    this.#max.value = e?.max ?? "";
    if (e !== null) this.#unit.value = e.unit;
  }
}

/** A circle on the sky. */
export class ConeField extends Field {
  #inputs;

  constructor() {
    const inputs = [makeNumber(), makeNumber(), makeNumber("1")];
    const labels = ["RA", "Dec", "Radius"].map((name, at) => labelled(name, inputs[at]));
    super("cone", "Sky, degrees ICRS", [makeRow(...labels)]);
    this.#inputs = inputs;
  }

  text() {
    const [ra, dec, radius] = this.#inputs.map((input) => input.value.trim());
    if (ra === "" && dec === "") return "";
    return `${ra},${dec},${radius}`;
  }

  fill({ cone }) {
    const values = cone === null ? ["", "", "1"] : [cone.raDeg, cone.decDeg, cone.radiusDeg];
    for (const [at, value] of values.entries()) this.#inputs[at].value = value;
  }
}

const TIME_MODES = [
  ["time", "From and to"],
  ["season", "Season, Sep to May"],
  ["month", "Month"],
  ["week", "ISO week"],
  ["night", "Night, noon to noon"],
];

/** An interval of time, or one of the presets that stand for an interval. */
export class TimeField extends Field {
  #mode;
  #begin;
  #end;
  #presets;
  #rows;
  #meaning;

  constructor() {
    const mode = makeSelect(TIME_MODES, "time");
    const [begin, end] = [makeDate(), makeDate()];
    const presets = {
      season: make("input", { type: "text", placeholder: "2019/20", autocomplete: "off" }),
      month: make("input", { type: "month", placeholder: "2019-11" }),
      week: make("input", { type: "week", placeholder: "2019-W45" }),
      night: make("input", { type: "date" }),
    };
    const rows = { time: makeRow(labelled("From", begin), labelled("Before", end)) };
    for (const [key, input] of Object.entries(presets)) rows[key] = labelled(key === "night" ? "Evening" : key, input);
    const meaning = make("p", { class: "hint", hidden: true });
    super("time", "Time, UTC", [labelled("Given as", mode), ...Object.values(rows), meaning]);
    [this.#mode, this.#begin, this.#end, this.#presets, this.#rows] = [mode, begin, end, presets, rows];
    this.#meaning = meaning;
    this.#showMode();
    mode.addEventListener("change", () => this.#showMode());
  }

  /** Tell which interval a preset stands for: `{begin, end}` of the canonical form. */
  showMeaning(interval) {
    this.#meaning.hidden = this.#mode.value === "time" || interval === undefined;
    setText(this.#meaning, interval === undefined ? "" : describeInterval(interval));
  }

  pick(search) {
    return Object.fromEntries(TIME_KEYS.map((key) => [key, search[key] ?? null]));
  }

  changes() {
    const mode = this.#mode.value;
    return { ...this.pick({}), [mode]: parse(mode, this.text()) };
  }

  text() {
    const mode = this.#mode.value;
    return mode === "time" ? `${this.#begin.value}..${this.#end.value}` : this.#presets[mode].value;
  }

  fill(changes) {
    this.#mode.value = TIME_KEYS.find((key) => changes[key] !== null) ?? this.#mode.value;
    this.#showMode();
    setDate(this.#begin, changes.time?.begin ?? "");
    setDate(this.#end, changes.time?.end ?? "");
    for (const [key, input] of Object.entries(this.#presets)) input.value = changes[key] ?? "";
  }

  #showMode() {
    for (const [key, row] of Object.entries(this.#rows)) row.hidden = key !== this.#mode.value;
    this.showMeaning(undefined);
  }
}

function labelled(label, input) {
  return make("label", { class: "field" }, make("span", {}, label), input);
}

function makeRow(...children) {
  return make("div", { class: "row" }, ...children);
}

function makeNumber(value = "") {
  return make("input", { type: "text", inputmode: "decimal", autocomplete: "off", value });
}

function makeSelect(options, chosen) {
  const makeOption = ([value, text]) => make("option", { value, selected: value === chosen }, text);
  return make("select", {}, ...options.map(makeOption));
}

function makeDate() {
  return make("input", { type: "date" });
}

/** A date field cannot hold a time of day; a moment from an address is shown as the text that it is. */
function setDate(input, value) {
  input.type = /^(?:\d{4}-\d{2}-\d{2})?$/.test(value) ? "date" : "text";
  input.value = value;
}
