// CSV as RFC 4180 has it: quotes, doubled quotes, line breaks within quotes.

/** Rows of texts; a last row that is cut off or empty is left out. */
export function csvRows(text) {
  const rows = [];
  let row = [];
  const cell = /(?:"((?:[^"]|"")*)"|([^,\r\n]*))(,|\r?\n|$)/gy;
  const source = text.replace(/^\uFEFF/, "");
  while (cell.lastIndex < source.length) {
    const [, quoted, plain, end] = cell.exec(source) ?? [null, null, null, null];
    if (end === null) break;
    row.push(quoted === undefined ? plain.trim() : quoted.replaceAll('""', '"'));
    if (end !== ",") {
      if (row.length > 1 || row[0] !== "") rows.push(row);
      row = [];
    }
  }
  return rows;
}
