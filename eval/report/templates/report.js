"use strict";
// Headers of sortable tables become buttons: the first press sorts upwards, the next downwards.

function key(row, column) {
  return row.cells[column].dataset.sort;
}

function compare(a, b, numeric) {
  if (a === "" || b === "") return null; // cells without a value stay at the end in both directions
  return numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true });
}

function sort(table, header) {
  const column = header.cellIndex;
  const numeric = header.classList.contains("number");
  const down = header.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = [...body.rows].sort((r, s) => {
    const [a, b] = [key(r, column), key(s, column)];
    const order = compare(a, b, numeric);
    if (order === null) return (a === "") - (b === "");
    return down ? -order : order;
  });
  body.append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const header of table.tHead.rows[0].cells) {
    if (!header.textContent) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    button.addEventListener("click", () => sort(table, header));
    header.replaceChildren(button);
  }
}
