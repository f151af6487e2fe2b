/** Pictures of the user's own: chosen, dropped anywhere on the page, or pasted. */
import { $ } from "./dom";

/** Hands every such file to `take`. */
export function bindDrop(take: (file: File) => void): void {
  const input = $<HTMLInputElement>("file");
  const stage = $("stage");
  const first = (files?: FileList | null) => {
    if (files?.length) take(files[0]);
  };
  $("choose").onclick = () => input.click();
  input.onchange = () => {
    first(input.files);
    input.value = ""; // so that the same file can be chosen again
  };
  addEventListener("paste", (event) => first(event.clipboardData?.files));
  addEventListener("dragover", (event) => {
    event.preventDefault();
    stage.classList.add("over");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) stage.classList.remove("over");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    stage.classList.remove("over");
    first(event.dataTransfer?.files);
  });
}
