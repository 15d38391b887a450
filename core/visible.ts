/** What a person is shown must be what is there: characters that hide, reorder or imitate are written out. */

/**
 * Controls, format characters (bidi, zero width, tags), separators, private use, surrogates, unassigned code points, what
 * renderers may ignore (variation selectors, fillers), the blank Braille cell and every space but the ordinary one.
 */
const HIDDEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cs}\p{Cn}\p{Default_Ignorable_Code_Point}\u2800]|(?! )\p{Zs}/gu;

/**
 * Replaces every hidden character but the line feed by `\u{hex}`. In JSON text no confusion with a literal `\u{202e}` is
 * possible: there the backslash itself is written `\\`.
 */
export function makeVisible(text: string): string {
  return text.replace(HIDDEN, (character) => (character === '\n' ? character : `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`));
}
