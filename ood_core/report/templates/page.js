"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };
  const distinct = (values) => [...new Set(values)].filter((value) => value !== "");
  const chooser = (label, values, changed) => {
    const select = make("select", { ariaLabel: label, onchange: changed }, make("option", { value: "", textContent: "all" }));
    values.forEach((value) => select.append(make("option", { value, textContent: value })));
    return { select, element: make("label", {}, label, select) };
  };

  // ------------------------------------------------------------------------------------------------ sorting

  const collator = new Intl.Collator("en", { numeric: true });
  const key = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.sort ?? cell.textContent.trim();
    const number = Number(text);
    return { text, number, missing: text === "" || text === "-", numeric: text !== "" && !Number.isNaN(number) };
  };
  const compare = (a, b) => (a.numeric && b.numeric ? a.number - b.number : collator.compare(a.text, b.text));
  const sort = (table, header, status) => {
    const numeric = header.classList.contains("n");
    const now = header.getAttribute("aria-sort");
    const order = now === "none" ? (numeric ? "descending" : "ascending") : now === "ascending" ? "descending" : "ascending";
    const sign = order === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows].map((row) => ({ row, key: key(row, header.cellIndex) }));
    rows.sort((a, b) => a.key.missing - b.key.missing || sign * compare(a.key, b.key));
    table.tBodies[0].append(...rows.map(({ row }) => row));
    all("th", table.tHead).forEach((other) => other.setAttribute("aria-sort", other === header ? order : "none"));
    status.textContent = `sorted by ${header.textContent.trim()}, ${order}`;
  };

  // ---------------------------------------------------------------------------------------------- filtering

  const filters = (table, status) => {
    const rows = [...table.tBodies[0].rows];
    const box = make("input", { type: "search", ariaLabel: "filter", oninput: () => apply() });
    const choosers = all("th[data-filter]", table.tHead)
      .map((header) => ({ header, values: distinct(rows.map((row) => row.cells[header.cellIndex].textContent.trim())) }))
      .filter(({ values }) => values.length > 1)
      .map(({ header, values }) => ({ column: header.cellIndex, ...chooser(header.textContent.trim(), values, () => apply()) }));
    const texts = rows.map((row) => all("td:not(.n)", row).map((cell) => cell.textContent).join(" ").toLowerCase());
    const apply = () => {
      const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, index) => {
        const fits = words.every((word) => texts[index].includes(word)) && choosers.every(({ column, select }) =>
          select.value === "" || row.cells[column].textContent.trim() === select.value);
        row.hidden = !fits;
        shown += fits;
      });
      status.textContent = `${shown} of ${rows.length} lines`;
    };
    return [make("label", {}, "filter", box), ...choosers.map(({ element }) => element)];
  };

  all("table.sortable").forEach((table) => {
    const status = make("span", { role: "status" });
    const large = !table.classList.contains("plain") && table.tBodies[0].rows.length > 6;
    table.closest(".scroll").before(large ? make("div", { className: "tools" }, ...filters(table, status), status) : status);
    if (!large) status.className = "unseen";
    all("th", table.tHead).forEach((header) => {
      const button = make("button", { type: "button", onclick: () => sort(table, header, status) });
      button.append(...header.childNodes);
      header.append(button);
    });
  });

  // ------------------------------------------------------------------------------- groups of what can be opened

  all(".group").forEach((group) => {
    const items = all(":scope > details", group);
    if (items.length < 2) return;
    const status = make("span", { role: "status" });
    const choosers = ["variant", "case", "scorer"]
      .map((name) => ({ name, values: distinct(items.map((item) => item.dataset[name] ?? "")) }))
      .filter(({ values }) => values.length > 1)
      .map(({ name, values }) => ({ name, ...chooser(name, values, () => apply()) }));
    const apply = () => {
      const fitting = items.filter((item) => choosers.every(({ name, select }) => select.value === "" || item.dataset[name] === select.value));
      items.forEach((item) => { item.hidden = !fitting.includes(item); });
      if (fitting.length && !fitting.some((item) => item.open)) fitting[0].open = true;
      status.textContent = `${fitting.length} of ${items.length}`;
    };
    const every = (open) => make("button", { type: "button", textContent: open ? "open all" : "close all", onclick: () =>
      items.forEach((item) => { if (!item.hidden) item.open = open; }) });
    group.before(make("div", { className: "tools" }, ...choosers.map(({ element }) => element), every(true), every(false), status));
  });

  // --------------------------------------------------------------------------------------------- printing, contents

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    closed.forEach((item) => { item.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((item) => { item.open = false; }));

  const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach(({ target }) => {
    links.forEach((link, id) => (id === target.id ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current")));
  }), { rootMargin: "-10% 0px -80% 0px" });
  all("main > section").forEach((section) => seen.observe(section));
})();
