// Heat over the prompt's tokens, for the whole output or the token that was chosen; what is chosen stands in the address.
(async () => {
  const TOP = 8;
  const form = document.getElementById("choose");
  const seen = [...document.querySelectorAll("#seen .tok")];
  const out = [...document.querySelectorAll(".tok.out")];
  const list = document.getElementById("top");
  const bytes = Uint8Array.from(atob(document.querySelector("data.index").textContent), (char) => char.charCodeAt(0));
  const weights = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  const address = () => new URLSearchParams(location.hash.slice(1));

  const show = () => {
    const method = address().get("method") ?? "input_x_gradient";
    const rows = weights[method] ?? weights.input_x_gradient;
    const chosen = rows[address().get("token") ?? ""];
    const all = [...seen, ...(chosen ? out : [])];
    const values = all.map((_, i) => (chosen ? chosen[i] : rows.reduce((sum, row) => sum + row[i], 0)));
    const largest = Math.max(...values.map(Math.abs)) || 1;
    for (const token of out) token.classList.remove("plus", "minus");
    all.forEach((token, i) => {
      token.style.setProperty("--heat", `${Math.round((85 * Math.abs(values[i])) / largest)}%`);
      token.classList.toggle("plus", values[i] > 0);
      token.classList.toggle("minus", values[i] < 0);
      token.title = values[i].toFixed(3);
    });
    out.forEach((token, i) => token.classList.toggle("chosen", chosen !== undefined && String(i) === address().get("token")));
    for (const button of form.querySelectorAll("[data-method]")) button.setAttribute("aria-pressed", button.dataset.method === method);
    document.getElementById("whole").hidden = !chosen;
    const order = [...values.keys()].sort((a, b) => Math.abs(values[b]) - Math.abs(values[a])).slice(0, TOP);
    list.replaceChildren(
      ...order.map((i) => {
        const item = document.createElement("li");
        const text = document.createElement("code");
        text.textContent = all[i].textContent;
        item.append(text, ` ${values[i].toFixed(3)}`);
        return item;
      }),
    );
  };
  const choose = (name, value) => {
    const kept = address();
    value === null ? kept.delete(name) : kept.set(name, value);
    history.replaceState(null, "", `#${kept}`);
    show();
  };
  out.forEach((token, i) => {
    token.tabIndex = 0;
    token.setAttribute("role", "button");
    token.addEventListener("click", () => choose("token", i));
    token.addEventListener("keydown", (event) => event.key === "Enter" && choose("token", i));
  });
  for (const button of form.querySelectorAll("[data-method]")) button.addEventListener("click", () => choose("method", button.dataset.method));
  document.getElementById("whole").addEventListener("click", () => choose("token", null));
  addEventListener("hashchange", show);
  form.hidden = false;
  show();
  document.documentElement.dataset.ready = "yes";
})();
