
// The language of the labels: the reader's own, until the button says otherwise; it is kept in the address (#ui=zh).
(() => {
  const page = document.documentElement;
  const button = document.getElementById("ui");
  const show = (code) => {
    page.dataset.ui = code;
    page.lang = code;
    button.textContent = code === "zh" ? "English" : "中文";
  };
  const wanted = new URLSearchParams(location.hash.slice(1)).get("ui");
  show((wanted ?? navigator.language).startsWith("zh") ? "zh" : "en");
  button.hidden = false;
  button.addEventListener("click", () => {
    const next = page.dataset.ui === "zh" ? "en" : "zh";
    history.replaceState(null, "", `#ui=${next}`);
    show(next);
  });
})();
