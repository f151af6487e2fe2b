/** What a user can do something about, in one sentence. */
export class ClassifierError extends Error {
  override name = "ClassifierError";
}
