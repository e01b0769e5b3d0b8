// A table is sorted by a click on a heading, numbers as numbers; another click turns it round.
for (const head of document.querySelectorAll("th")) {
  head.tabIndex = 0;
  const sort = () => {
    const table = head.closest("table"), place = head.cellIndex, body = table.tBodies[0];
    const down = head.getAttribute("aria-sort") === "descending";
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "ascending" : "descending");
    const key = row => row.cells[place].dataset.value ?? row.cells[place].textContent;
    const sign = down ? 1 : -1;
    const rows = [...body.rows].sort((a, b) => {
      const x = key(a), y = key(b), order = x - y;
      if (x === "" || y === "") return (x === "") - (y === "");  // what is missing stays below
      return sign * (Number.isNaN(order) ? x.localeCompare(y, undefined, {numeric: true}) : order);
    });
    body.append(...rows);
  };
  head.addEventListener("click", sort);
  head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
}
for (const slider of document.querySelectorAll(".pair input"))
  slider.addEventListener("input", () =>
    slider.parentElement.style.setProperty("--at", slider.value + "%"));
