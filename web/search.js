/**
 * The search: a frozen object from filter to value, and its two other forms, the address and the GraphQL filter.
 *
 * A filter is one entry of `FILTERS`. Its key is its name in the address; the text after it there has one grammar,
 * which the fields of the page use too. A filter that is not set is no key of the search.
 */

export const ENERGY_UNITS = ["eV", "keV", "MeV", "GeV", "TeV", "PeV", "EeV"];

const SORT_FIELDS = { start: "TIME_BEGIN", path: "PATH", size: "SIZE_BYTES" };
const DEFAULT_SORT = "start";
const DAY_MS = 86_400_000;
const NUMBER = String.raw`[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?`;
const MOMENT = /^\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?(?:Z|[+-]\d{2}:\d{2})?)?$/;

/** A text that is no value of its filter; the message says what was expected. */
export class FilterError extends Error {}

// --- kinds of filter: text -> value -> text, GraphQL, words ----------------------------------------------------------

/** Alternatives, separated by commas; a comma within a value is written "\,". */
function words(label, { name = label, canonical = name } = {}) {
  return {
    label,
    isList: true,
    parse: (text) => [...new Set(splitList(text))].sort(),
    print: (values) => values.map((value) => value.replace(/[\\,]/g, "\\$&")).join(","),
    toFilter: (values) => ({ [name]: values }),
    canonical,
    fromCanonical: (values) => values,
  };
}

function preset(name, pattern, expected) {
  return {
    label: name,
    parse: (text) => matched(text.trim(), pattern, expected)[0],
    print: (value) => value,
    toFilter: (value) => ({ time: { [name]: value } }),
    describe: (value, canonical) => (canonical.time ? `${value} (${describeInterval(canonical.time)})` : value),
  };
}

const interval = {
  label: "time",
  parse(text) {
    const expected = "dates such as 2019-11-02, or times such as 2019-11-02T18:00 (UTC)";
    const [begin, end] = matched(text, /^(.*?)\.\.(.*)$/, expected).slice(1).map((part) => part.trim());
    for (const part of [begin, end]) if (part) matched(part, MOMENT, expected);
    return begin || end ? { begin, end } : null;
  },
  print: ({ begin, end }) => `${begin}..${end}`,
  toFilter: ({ begin, end }) => ({ time: { ...(begin && { begin }), ...(end && { end }) } }),
  describe: (value) => describeInterval(value),
  canonical: "time",
  fromCanonical: ({ begin = "", end = "" }) => ({ begin: shortenMoment(begin), end: shortenMoment(end) }),
};

const runs = {
  label: "run",
  parse(text) {
    const ranges = splitList(text).map((part) =>
      matched(part, /^(\d{1,19})(?:\s*[-–]\s*(\d{1,19}))?$/, "run numbers such as 30411-30450, 30460"),
    );
    return ranges.map(([, first, last]) => ({ first, last: last ?? first }));
  },
  print: (ranges) => ranges.map(({ first, last }) => (first === last ? first : `${first}-${last}`)).join(","),
  toFilter: (run) => ({ run }),
  describe: (ranges) => runs.print(ranges).replaceAll(",", ", ").replaceAll("-", "–"),
  canonical: "run",
  fromCanonical: (ranges) => ranges.map(({ first, last }) => ({ first: String(first), last: String(last) })),
};

const energy = {
  label: "energy",
  parse(text) {
    const expected = "energies such as 1 and 10, without their unit, or 1e15";
    const pattern = new RegExp(`^\\s*(${NUMBER})?\\s*\\.\\.\\s*(${NUMBER})?\\s*(${ENERGY_UNITS.join("|")})?\\s*$`);
    const [, min, max, unit = "eV"] = matched(text, pattern, expected);
    return min || max ? { min: toNumber(min), max: toNumber(max), unit } : null;
  },
  print: ({ min, max, unit }) => `${min ?? ""}..${max ?? ""}${unit}`,
  toFilter: ({ min, max, unit }) => ({ energy: { min, max, unit: unit.toUpperCase() } }),
  describe({ min, max, unit }) {
    if (max === null) return `from ${min} ${unit}`;
    return min === null ? `up to ${max} ${unit}` : `${min}–${max} ${unit}`;
  },
  canonical: "energy",
  fromCanonical({ min_ev: min = null, max_ev: max = null }) {
    const least = min || max || 1;
    const power = Math.max(0, Math.min(ENERGY_UNITS.length - 1, Math.floor(Math.log10(least) / 3)));
    return { min: shiftDecimal(min, -3 * power), max: shiftDecimal(max, -3 * power), unit: ENERGY_UNITS[power] };
  },
};

const cone = {
  label: "sky",
  parse(text) {
    if (/^[\s,]*$/.test(text)) return null;
    const pattern = new RegExp(`^\\s*(${NUMBER})\\s*,\\s*(${NUMBER})\\s*,\\s*(${NUMBER})\\s*$`);
    const [raDeg, decDeg, radiusDeg] = matched(text, pattern, "right ascension, declination and radius in degrees")
      .slice(1)
      .map(Number);
    return { raDeg, decDeg, radiusDeg };
  },
  print: ({ raDeg, decDeg, radiusDeg }) => `${raDeg},${decDeg},${radiusDeg}`,
  toFilter: (value) => ({ cone: value }),
  describe: ({ raDeg, decDeg, radiusDeg }) => `within ${radiusDeg}° of RA ${raDeg}°, Dec ${decDeg}°`,
  canonical: "cone",
  fromCanonical: ({ ra_deg: raDeg, dec_deg: decDeg, radius_deg: radiusDeg }) => ({ raDeg, decDeg, radiusDeg }),
};

/** All filters of the page by their name in the address, in the order in which they are told. */
export const FILTERS = Object.freeze({
  facility: words("facility"),
  cluster: words("cluster"),
  detector: words("detector"),
  channel: words("channel"),
  storage: words("storage"),
  level: words("level"),
  time: interval,
  season: preset("season", /^\d{4}\/(?:\d{2}|\d{4})$/, "a season such as 2019/20"),
  month: preset("month", /^\d{4}-\d{2}$/, "a month such as 2019-11"),
  week: preset("week", /^\d{4}-W\d{2}$/, "an ISO week such as 2019-W45"),
  night: preset("night", /^\d{4}-\d{2}-\d{2}$/, "the date of an evening such as 2019-11-02"),
  e: energy,
  cone,
  conditions: words("conditions"),
  quality: words("quality"),
  kind: words("kind"),
  format: words("format"),
  object: words("object"),
  processing: words("processing"),
  run: runs,
  obsId: words("observation id", { name: "obsId", canonical: "obs_id" }),
  path: words("path"),
});

/** The ways to give a time; a search has at most one of them. */
export const TIME_KEYS = ["time", "season", "month", "week", "night"];

// --- the search ------------------------------------------------------------------------------------------------------

/** The search for everything. */
export const EVERYTHING = Object.freeze({ sort: DEFAULT_SORT });

/** Return the search with some filters changed; null or an empty list takes a filter away. */
export function change(search, changes) {
  const entries = Object.entries({ ...search, ...changes });
  return Object.freeze(Object.fromEntries(entries.filter(([, value]) => value !== null && value.length !== 0)));
}

/** Return the keys of the filters that are set, in the order of `FILTERS`. */
export function activeKeys(search) {
  return Object.keys(FILTERS).filter((key) => key in search);
}

/** Return the search as GraphQL input. */
export function toFilter(search) {
  const filter = {};
  for (const key of activeKeys(search)) {
    for (const [name, value] of Object.entries(FILTERS[key].toFilter(search[key]))) {
      // Two ways to give a time meet here, and the service says that they contradict each other.
      filter[name] = name in filter && !Array.isArray(value) ? { ...filter[name], ...value } : value;
    }
  }
  return filter;
}

/** Return the order of the files as GraphQL input. */
export function toOrder(search) {
  const descending = search.sort.startsWith("-");
  return { field: SORT_FIELDS[descending ? search.sort.slice(1) : search.sort], descending };
}

/**
 * Return what each active filter says, one part per value: `{key, label, text, rest}`.
 *
 * `rest` is the search without this part; `canonical`, the answer's canonical form, lets presets say what they mean.
 */
export function describe(search, canonical = {}) {
  return activeKeys(search).flatMap((key) => {
    const { label, isList, describe: tell } = FILTERS[key];
    const value = search[key];
    if (!isList) return [{ key, label, text: tell(value, canonical), rest: change(search, { [key]: null }) }];
    return value.map((one) => {
      const others = value.filter((other) => other !== one);
      return { key, label, text: one, rest: change(search, { [key]: others }) };
    });
  });
}

/**
 * Return the search that a canonical form stands for, and the names of those filters that this page has no words for.
 */
export function fromCanonical(canonical) {
  const keys = new Map(Object.keys(FILTERS).map((key) => [FILTERS[key].canonical, key]));
  const known = Object.keys(canonical).filter((name) => keys.has(name));
  const changes = known.map((name) => [keys.get(name), FILTERS[keys.get(name)].fromCanonical(canonical[name])]);
  return {
    search: change(EVERYTHING, Object.fromEntries(changes)),
    unknown: Object.keys(canonical).filter((name) => !keys.has(name)),
  };
}

/** Return the key of the filter that the service means by a path such as "energy.max"; undefined for none of ours. */
export function findKey(path) {
  const [name] = path.split(/[.[]/);
  return Object.keys(FILTERS).find((key) => key === name || FILTERS[key].label === name);
}

// --- the address -----------------------------------------------------------------------------------------------------

/** Return the search that an address' parameters stand for, and a sentence about each part that was left out. */
export function readAddress(parameters) {
  const params = new URLSearchParams(parameters);
  const found = {};
  const problems = [];
  for (const key of new Set(params.keys())) {
    const text = params.getAll(key).join(",");
    try {
      found[key] = key === "sort" ? parseSort(text) : parse(key, text);
    } catch (error) {
      if (!(error instanceof FilterError)) throw error;
      problems.push(error.message);
    }
  }
  return { search: change(EVERYTHING, found), problems };
}

/** Return the search as the parameters of an address: keys sorted, defaults left out. */
export function writeAddress(search) {
  const pairs = activeKeys(search).map((key) => [key, FILTERS[key].print(search[key])]);
  if (search.sort !== DEFAULT_SORT) pairs.push(["sort", search.sort]);
  const text = pairs.sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, value]) => `${key}=${encodeReadably(value)}`);
  return text.length ? `?${text.join("&")}` : "";
}

/** Return the value that a text is for a filter, null for an empty one; raises FilterError. */
export function parse(key, text) {
  if (!Object.hasOwn(FILTERS, key)) throw new FilterError(`The address has a part that is unknown here: “${key}”.`);
  try {
    return text.trim() === "" ? null : FILTERS[key].parse(text);
  } catch (error) {
    if (!(error instanceof FilterError)) throw error;
    throw new FilterError(`${FILTERS[key].label}: “${text}” is not understood; expected ${error.message}.`);
  }
}

function parseSort(text) {
  if (Object.hasOwn(SORT_FIELDS, text.replace(/^-/, ""))) return text;
  const expected = Object.keys(SORT_FIELDS).join(", ");
  throw new FilterError(`sort: “${text}” is not understood; expected ${expected}, with “-” before it for descending.`);
}

/** Percent-encode only what an address cannot hold: commas, slashes and colons stay readable. */
function encodeReadably(text) {
  return encodeURIComponent(text)
    .replaceAll("%20", "+")
    .replace(/%(?:2C|2F|3A)/g, decodeURIComponent);
}

// --- texts -----------------------------------------------------------------------------------------------------------

function splitList(text) {
  const parts = text.match(/(?:\\.|[^,\\])+/g) ?? [];
  return parts.map((part) => part.replace(/\\(.)/g, "$1").trim()).filter((part) => part);
}

function matched(text, pattern, expected) {
  const match = text.match(pattern);
  if (match === null) throw new FilterError(expected);
  return match;
}

function toNumber(text) {
  return text === undefined ? null : Number(text);
}

/** Move the decimal point without the rounding of a multiplication: 1.3e12 eV is 1.3 TeV. */
function shiftDecimal(value, digits) {
  if (value === null) return null;
  const [mantissa, exponent] = value.toExponential().split("e");
  return Number(`${mantissa}e${Number(exponent) + digits}`);
}

function shortenMoment(text) {
  return text.replace(/\.0+Z$/, "Z").replace(/T00:00:00Z$/, "");
}

function describeMoment(text) {
  return shortenMoment(text).replace("T", " ").replace(/(?::00)?Z$/, "");
}

/** An end is excluded: what ends at midnight is told by its last day. */
function describeEnd(text) {
  const day = shortenMoment(text);
  if (!/^\d{4}-\d{2}-\d{2}$/.test(day) || Number.isNaN(Date.parse(day))) return describeMoment(text);
  return new Date(Date.parse(day) - DAY_MS).toISOString().slice(0, 10);
}

/** Return an interval of time in words: "2019-09-01 – 2020-05-31". */
export function describeInterval({ begin, end }) {
  const from = begin ? describeMoment(begin) : "";
  const to = end ? describeEnd(end) : "";
  if (!to || from === to) return to ? from : `from ${from}`;
  return from ? `${from} – ${to}` : `until ${to}`;
}
