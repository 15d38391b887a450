const UNSTORABLE = /\0|[\uD800-\uDBFF](?![\uDC00-\uDFFF])|(?<![\uD800-\uDBFF])[\uDC00-\uDFFF]/g;

/** Text that a database can hold and a hash can cover: NUL and lone surrogates become U+FFFD. */
export function storableText(text: string): string {
  return text.replace(UNSTORABLE, '\uFFFD');
}

/** True when {@link storableText} would change nothing. */
export function isStorable(text: string): boolean {
  return storableText(text) === text;
}

const LABEL_LENGTH = 60;

/** A short plain label: the server refuses long summaries, and a refused command would fail the workflow task. */
export function label(text: string): string {
  const plain = String(text)
    .slice(0, LABEL_LENGTH + 1)
    .replace(/[^\x20-\x7e]/g, '?');
  return plain.length > LABEL_LENGTH ? `${plain.slice(0, LABEL_LENGTH - 1)}~` : plain;
}
