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

/** What an error says, as a sentence. */
export function sentence(error: unknown): string {
  const { message } = error as Error;
  return message.charAt(0).toUpperCase() + message.slice(1).replace(/([^.])$/, "$1.");
}

export const megabytes = (bytes: number): string =>
  `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
