/**
 * All errors. A message says what came, what was expected and what to do, in one line.
 * The classes are those of the Python package, as far as a client needs them.
 */

/** Base of everything this module throws on purpose. */
export class Minit2iError extends Error {
  /**
   * @param {string} message
   * @param {ErrorOptions} [options]
   */
  constructor(message, options) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** An argument is outside what the call accepts. */
export class UsageError extends Minit2iError {}

/** A bundle is missing, corrupt, foreign or of an unknown format version. */
export class BundleError extends Minit2iError {}

/** The engine failed, or this browser cannot do what is required. */
export class RuntimeFailure extends Minit2iError {}

/** The caller's signal stopped the work. */
export class Cancelled extends Minit2iError {}

/** JSON outside its rules; callers wrap it in a BundleError or UsageError. */
export class JsonError extends Error {}

/**
 * The first line of what another library threw.
 *
 * @param {unknown} error
 */
export function firstLine(error) {
  const text = error instanceof Error ? error.message : String(error);
  return text.trim().split("\n", 1)[0] || "no reason given";
}

/**
 * Throw Cancelled if a signal is aborted.
 *
 * @param {AbortSignal | undefined} signal
 */
export function checkSignal(signal) {
  if (signal?.aborted) throw new Cancelled("cancelled by the caller");
}
