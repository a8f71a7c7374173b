/** Makes and patches elements. Nothing here knows what the page is about. */

/**
 * Return a new element.
 *
 * Keys of `properties` that begin with "on" are event listeners; true and false set and leave out an attribute;
 * children may be nodes or texts, null is left out.
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else setAttribute(element, name, value);
  }
  element.append(...children.flat().filter((child) => child !== null));
  return element;
}

/** Set an attribute; true is the empty text, false and null take it away. */
export function setAttribute(element, name, value) {
  if (value === false || value === null || value === undefined) element.removeAttribute(name);
  else element.setAttribute(name, value === true ? "" : value);
}

/** Set a text only when it differs, so that a selection or a screen reader is not disturbed. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Make the children of `parent` those of `items`, in their order.
 *
 * A child is kept for the item with its key and only updated: what holds the focus is never made anew.
 */
export function patch(parent, items, { key, create, update = () => {} }) {
  const kept = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let before = parent.firstElementChild;
  for (const item of items) {
    const name = String(key(item));
    const child = kept.get(name) ?? create(item);
    child.dataset.key = name;
    kept.delete(name);
    update(child, item);
    if (child === before) before = before.nextElementSibling;
    else parent.insertBefore(child, before);
  }
  for (const child of kept.values()) child.remove();
}

/** Tell the elements around `element` that something happened. */
export function emit(element, name, detail) {
  element.dispatchEvent(new CustomEvent(name, { bubbles: true, detail }));
}
