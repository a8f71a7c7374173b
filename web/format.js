/** How numbers, sizes and times are written: decimal units, three significant digits, UTC. */

const NARROW_SPACE = "\u202f";
const BYTE_UNITS = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
const SPOKEN_BYTE_UNITS = ["bytes", "kilobytes", "megabytes", "gigabytes", "terabytes", "petabytes", "exabytes"];

/** Return a whole number in groups of three: "1 204". */
export function formatCount(value) {
  return String(value).replace(/\B(?=(\d{3})+$)/g, NARROW_SPACE);
}

/** Return a number with its noun: "1 file", "1 204 files". */
export function formatCounted(value, noun) {
  return `${formatCount(value)} ${noun}${value === 1 ? "" : "s"}`;
}

/** Return a size in the decimal unit that leaves 1 to 999: "77.1 MB". */
export function formatBytes(value) {
  const [digits, power] = scale(value);
  return `${digits} ${BYTE_UNITS[power]}`;
}

/** Return a size as a screen reader should say it: "77.1 megabytes". */
export function spellBytes(value) {
  const [digits, power] = scale(value);
  return `${digits} ${SPOKEN_BYTE_UNITS[power]}`;
}

/** Return a size to the byte: "77 112 000 bytes". */
export function formatExactBytes(value) {
  return formatCounted(value, "byte");
}

function scale(value) {
  let power = 0;
  let digits = value;
  // 999.6 would be written as 1000: it belongs to the next unit.
  while (power < BYTE_UNITS.length - 1 && Number(digits.toPrecision(3)) >= 1000) {
    digits /= 1000;
    power += 1;
  }
  return [power === 0 ? String(digits) : digits.toPrecision(3), power];
}

/** Return a moment to the minute, in UTC: "2019-11-02 18:04"; nothing for null. */
export function formatTime(text) {
  return text === null ? "" : new Date(text).toISOString().slice(0, 16).replace("T", " ");
}

/** Return a moment to the second in UTC and in the reader's own zone; nothing for null. */
export function formatExactTime(text) {
  if (text === null) return "";
  const moment = new Date(text);
  return `${moment.toISOString().slice(0, 19).replace("T", " ")} UTC, here ${moment.toLocaleString()}`;
}

/** Return how much of a whole is done, in per cent; 100 is left to what is really complete. */
export function toPercent(done, total) {
  return total === 0 ? 0 : Math.min(99, Math.floor((100 * done) / total));
}
