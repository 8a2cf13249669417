// Makes elements. Text reaches the page through textContent alone, never as HTML.

export const byId = (id) => document.getElementById(id);

export function element(tag, { text, className, children = [], ...attributes } = {}) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  if (className) made.className = className;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export const chip = (text) => element("span", { text, className: "chip" });
export const quiet = (text) => element("div", { text, className: "quiet" });

export function unfolding(title, text) {
  return element("details", { children: [element("summary", { text: title }), element("p", { text })] });
}

// `source` is the cell as it was made: what a reader unfolded in it since then is no change.
export function cell(children, { label = "", ...attributes } = {}) {
  const made = element("td", { children: [children].flat(), "data-label": label, ...attributes });
  made.source = made.outerHTML;
  return made;
}
