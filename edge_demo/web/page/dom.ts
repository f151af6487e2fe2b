/** The element of an id of index.html. */
export const $ = <T extends HTMLElement = HTMLElement>(id: string): T =>
  document.getElementById(id) as T;

/** Shows a text in an element, and the element only if there is one. */
export function tell(element: HTMLElement, text = ""): void {
  element.textContent = text;
  element.hidden = !text;
}

/** An element with attributes and content. */
export function made<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Partial<HTMLElementTagNameMap[K]> = {},
  ...content: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...content);
  return element;
}

export const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;
