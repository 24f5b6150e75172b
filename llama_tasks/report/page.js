
// Search and language filter over the examples; their state lives in the address (#q=...&lang=...), so a view can be kept.
(() => {
  const form = document.getElementById("find");
  if (!form) return;
  const { q, lang } = form.elements;
  const status = form.querySelector("output");
  const rows = [...document.querySelectorAll("#examples tbody tr")];

  const show = () => {
    const term = q.value.trim().toLowerCase();
    const fits = (row) =>
      (!lang.value || row.dataset.lang === lang.value) && (!term || row.textContent.toLowerCase().includes(term));
    for (const row of rows) row.hidden = !fits(row);
    status.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  };
  const read = () => {
    const wanted = new URLSearchParams(location.hash.slice(1));
    q.value = wanted.get("q") ?? "";
    lang.value = wanted.get("lang") ?? "";
    show();
  };
  const keep = () => {
    const chosen = [...new FormData(form)].filter(([, value]) => value);
    history.replaceState(null, "", `#${new URLSearchParams(chosen)}`);
    show();
  };

  form.hidden = false;
  form.addEventListener("input", keep);
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", read);
  read();
})();
