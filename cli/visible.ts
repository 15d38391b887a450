/** Text from agents, made safe for a terminal: nothing in it can move the cursor, hide, or turn the reading direction. */

/** Controls, format characters (bidi, zero width, soft hyphen, tags), separators, lone surrogates, private use, blanks that look empty. */
const HIDDEN =
  /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cn}\u115F\u1160\u3164\uFFA0\u2800\u00A0\u2000-\u200A\u202F\u205F\u3000\u034F\u180B-\u180F\uFE00-\uFE0F]|\p{Cs}|[\u{E0100}-\u{E01EF}]/gu;

/** Shows hidden characters as `<U+202E>`. Line breaks and tabs stay when `multiline`, otherwise they show as `\n` and `\t`. */
export function visible(text: string, options: { multiline?: boolean } = {}): string {
  return text.replace(HIDDEN, (character) => {
    if (character === '\n' || character === '\t') {
      if (options.multiline === true) return character;
      return character === '\n' ? '\\n' : '\\t';
    }
    return `<U+${(character.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, '0')}>`;
  });
}
