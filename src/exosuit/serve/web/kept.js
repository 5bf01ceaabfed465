// Small choices, kept in this browser; where it keeps nothing (all cookies blocked), until it leaves.

const here = new Map();

export function get(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return here.get(name) ?? null;
  }
}

/** `null` forgets it. */
export function set(name, value) {
  try {
    if (value === null) localStorage.removeItem(name);
    else localStorage.setItem(name, value);
  } catch {
    if (value === null) here.delete(name);
    else here.set(name, value);
  }
}
