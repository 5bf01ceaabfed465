// Conversations, kept in this browser (IndexedDB) and nowhere else.
//
// A conversation: { id, title, created, updated, model, settings, messages }
// A message: { role, content, thoughts?, model?, stats?, stopped?, error? }

const NAME = "exosuit";
const ROOM = "conversations";

let opened;

/** The database, or null where the browser keeps nothing: then conversations last until it leaves. */
function open() {
  opened ??= new Promise((resolve) => {
    try {
      const request = indexedDB.open(NAME, 1);
      request.onupgradeneeded = () => request.result.createObjectStore(ROOM, { keyPath: "id" });
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => resolve(null);
    } catch {
      resolve(null);
    }
  });
  return opened;
}

const here = new Map();
const memory = {
  getAll: () => [...here.values()],
  get: (id) => here.get(id),
  put: (conversation) => here.set(conversation.id, conversation),
  delete: (id) => here.delete(id),
};

async function transact(mode, work) {
  const database = await open();
  if (!database) return work(memory);
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(ROOM, mode);
    const request = work(transaction.objectStore(ROOM));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

/** All of them, the latest first. */
export async function all() {
  const found = await transact("readonly", (room) => room.getAll());
  return found.sort((a, b) => b.updated - a.updated);
}

export function get(id) {
  return transact("readonly", (room) => room.get(id));
}

export function put(conversation) {
  return transact("readwrite", (room) => room.put(conversation));
}

export function remove(id) {
  return transact("readwrite", (room) => room.delete(id));
}

export function fresh(model, settings) {
  const now = Date.now();
  const id = [...crypto.getRandomValues(new Uint8Array(12))]
    .map((byte) => byte.toString(16).padStart(2, "0"))
    .join("");
  return { id, title: "", created: now, updated: now, model, settings: { ...settings }, messages: [] };
}
