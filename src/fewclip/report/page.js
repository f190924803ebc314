// Columns sort on a click; averages stay below. The page is complete without this.
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.querySelectorAll("th[scope=col]")];
  const order = heads[0].rowSpan > 1 || table.tHead.rows.length === 1 ? heads : heads.slice(1).concat(heads[0]);
  order.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      heads.forEach((h) => h.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if ((x === "–") !== (y === "–")) return x === "–" ? 1 : -1;
        const by = isNaN(x) || isNaN(y) ? String(x).localeCompare(y) : x - y;
        return down ? -by : by;
      };
      for (const body of table.tBodies) {
        const rows = [...body.rows].filter((r) => !r.matches(".total, .group")).sort(compare);
        const totals = [...body.rows].filter((r) => r.matches(".total"));
        body.append(...rows, ...totals);
      }
    });
  });
}
