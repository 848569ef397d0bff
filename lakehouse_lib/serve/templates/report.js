// Filter and sort the tables of the report, and open a table that a link leads to. Without it the page can be read as it is.
(() => {
  for (const box of document.querySelectorAll(".lh-tables:not([data-live])")) {
    box.dataset.live = "yes";
    const rows = [...box.querySelectorAll(".lh-row")], list = rows[0]?.parentNode;
    const bar = box.querySelector(".lh-bar"), input = bar.querySelector("input"), shown = bar.querySelector("output");
    bar.hidden = false;
    const filter = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) row.hidden = !words.every((word) => row.dataset.text.includes(word));
      shown.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} tables`;
    };
    input.addEventListener("input", filter);
    filter();
    const heads = [...box.querySelectorAll("[data-sort]")];
    const sort = (head) => {
      const key = head.dataset.sort, last = head.getAttribute("aria-sort");
      const up = last ? last === "descending" : head.dataset.first !== "down";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const value = (row) => row.dataset[key], number = (row) => (value(row) === "" ? -Infinity : Number(value(row)));
      const order = key === "name" || key === "owner"
        ? (a, b) => value(a).localeCompare(value(b)) : (a, b) => number(a) - number(b);
      for (const row of [...rows].sort((a, b) => (up ? order(a, b) : order(b, a)))) list.append(row);
    };
    for (const head of heads) {
      head.setAttribute("role", "button");
      head.tabIndex = 0;
      head.addEventListener("click", () => sort(head));
      head.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(head); }
      });
    }
    bar.querySelector("select").addEventListener("change", (event) => {
      const head = heads.find((one) => one.dataset.sort === event.target.value);
      if (!head) { list.append(...rows); return; }
      head.removeAttribute("aria-sort");
      sort(head);
    });
  }
  const reveal = () => {
    const row = location.hash.startsWith("#lh-") && document.getElementById(location.hash.slice(1));
    if (row) { row.hidden = false; row.open = true; row.scrollIntoView(); }
  };
  if (!window.lhReveals) { window.lhReveals = true; window.addEventListener("hashchange", reveal); }
  reveal();
})();
