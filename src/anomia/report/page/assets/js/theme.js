// Light or dark: the system's setting, until the reader chooses.

const KEY = "anomia-theme";
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const themeListeners = [];

// A page opened from disk may not be allowed to store anything.
function remembered() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

function remember(theme) {
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // The choice then lasts only as long as the page.
  }
}

const currentTheme = () => document.documentElement.dataset.theme;

function setTheme(theme) {
  if (theme === currentTheme()) return;
  document.documentElement.dataset.theme = theme;
  themeListeners.forEach((listener) => listener(theme));
}

function startTheme() {
  const system = () => (systemDark.matches ? "dark" : "light");
  setTheme(["light", "dark"].includes(remembered()) ? remembered() : system());
  systemDark.addEventListener("change", () => remembered() || setTheme(system()));
  $("theme").addEventListener("click", () => {
    setTheme(currentTheme() === "dark" ? "light" : "dark");
    remember(currentTheme());
  });
}
