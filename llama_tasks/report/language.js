// The language of the labels: the reader's own, until the button says otherwise; it is kept in the address (#ui=zh).
(() => {
  const page = document.documentElement;
  const button = document.getElementById("ui");
  const address = () => new URLSearchParams(location.hash.slice(1));
  const show = (code) => {
    page.dataset.ui = code;
    page.lang = code;
    button.textContent = code === "zh" ? "English" : "中文";
    for (const element of document.querySelectorAll("option[data-en]")) element.textContent = element.dataset[code];
    for (const field of document.querySelectorAll("input[data-en]")) {
      field.placeholder = field.dataset[code];
      field.setAttribute("aria-label", field.dataset[code]);
    }
  };
  show((address().get("ui") ?? navigator.language).startsWith("zh") ? "zh" : "en");
  button.hidden = false;
  button.addEventListener("click", () => {
    const next = page.dataset.ui === "zh" ? "en" : "zh";
    const kept = address();
    kept.set("ui", next);
    history.replaceState(null, "", `#${kept}`);
    show(next);
  });
})();
