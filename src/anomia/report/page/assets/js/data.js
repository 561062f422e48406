// The source of rows and items: the page itself, or `anomia view`, which sends them in pages.

const RIGHT = "2".charCodeAt(0);
const LOOPS = "1".charCodeAt(0);
const PAGE_ROWS = 100;

async function unpacked(id) {
  const packed = atob($(id).textContent);
  const bytes = Uint8Array.from(packed, (char) => char.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
}

const searchable = (text) => text.normalize("NFKC").toLowerCase();

// All rows in memory, as columns; items are decompressed in groups when one of them is opened.
async function embeddedSource(settings) {
  const index = await (await unpacked("item-index")).json();
  const { items, rows } = index;
  const total = rows.item.length;
  const columns = {
    item: Int32Array.from(rows.item), arm: Uint16Array.from(rows.arm), fate: Uint8Array.from(rows.fate),
    rank: Int32Array.from(rows.rank), language: Uint16Array.from(items.language),
  };
  const bytes = (text) => new TextEncoder().encode(text);
  const before = Object.fromEntries(Object.entries(index.before).map(([name, text]) => [name, bytes(text)]));
  const after = Object.fromEntries(Object.entries(index.after).map(([name, text]) => [name, bytes(text)]));
  const loops = index.loops === null || index.loops === undefined ? null : bytes(index.loops);
  const blocks = new Map();
  let texts = null;
  let chosen = new Int32Array(0);

  function searchTexts() {
    const shared = items.id.map((id, n) => searchable(`${id}\n${items.question[n]}\n${items.gold[n]}\n${items.said[n]}`));
    texts = rows.item.map((item, n) => `${shared[item]}\n${searchable(rows.said[n])}`);
  }

  // The numbers of the rows that pass; fates are counted before the filter of fates applies.
  function select(filter) {
    const words = searchable(filter.search).split(/\s+/).filter(Boolean);
    if (words.length && !texts) searchTexts();
    const asked = Object.entries(filter.probes);
    const kept = new Int32Array(total);
    const counts = [0, 0, 0, 0, 0];
    let size = 0;
    for (let n = 0; n < total; n += 1) {
      const item = columns.item[n];
      if (filter.arm !== null && columns.arm[n] !== filter.arm) continue;
      if (filter.language !== null && columns.language[item] !== filter.language) continue;
      const rank = columns.rank[n];
      if (filter.from !== null && (rank === 0 || rank < filter.from)) continue;
      if (filter.to !== null && (rank === 0 || rank > filter.to)) continue;
      if (filter.loops && !(loops && loops[n] === LOOPS)) continue;
      if (!asked.every(([probe, wanted]) => `${before[probe][item] - 48}${after[probe][n] - 48}` === wanted)) continue;
      if (!words.every((word) => texts[n].includes(word))) continue;
      counts[columns.fate[n]] += 1;
      if (filter.fate !== null && columns.fate[n] !== filter.fate) continue;
      kept[size] = n;
      size += 1;
    }
    chosen = kept.slice(0, size);
    return { total: size, counts };
  }

  function row(n) {
    const item = rows.item[n];
    return {
      number: n, run: items.run[item], arm: rows.arm[n], language: index.languages[items.language[item]],
      id: items.id[item], question: items.question[item], gold: items.gold[item],
      said: rows.said[n], baseSaid: items.said[item], fate: rows.fate[n], rank: rows.rank[n], baseRank: items.rank[item],
      loops: loops !== null && loops[n] === LOOPS,
      verdicts: Object.fromEntries(Object.keys(settings.probes).map((name) => [
        name, [before[name][item] - 48, after[name][n] - 48],
      ])),
    };
  }

  async function whole(found) {
    const item = rows.item[found.number];
    const group = Math.floor(item / settings.block);
    if (!blocks.has(group)) blocks.set(group, unpacked(`items-${group}`).then((response) => response.json()));
    return (await blocks.get(group))[item % settings.block];
  }

  function alike(found) {
    const same = [];
    for (const strict of [true, false]) {
      for (let n = 0; n < total && same.length < 5000; n += 1) {
        if (n === found.number || columns.arm[n] !== found.arm || columns.fate[n] !== found.fate) continue;
        if (strict && index.languages[columns.language[columns.item[n]]] !== found.language) continue;
        const item = columns.item[n];
        const close = settings.formats.every((name) =>
          before[name][item] - 48 === found.verdicts[name][0] && after[name][n] - 48 === found.verdicts[name][1]);
        if (close) same.push(n);
      }
      if (same.length) break;
    }
    return same.length ? row(same[Math.floor(Math.random() * same.length)]) : null;
  }

  function find({ run, arm, language, id }) {
    for (let n = 0; n < total; n += 1) {
      const item = columns.item[n];
      const [armRun, armName] = index.arms[columns.arm[n]];
      if (items.id[item] === id && index.languages[columns.language[item]] === language &&
          armName === arm && armRun === run) return row(n);
    }
    return null;
  }

  return {
    arms: index.arms, languages: index.languages, size: total, loops: loops !== null,
    select: async (filter) => select(filter),
    at: (place) => (place < chosen.length ? row(chosen[place]) : null),
    load: async (place) => (place < chosen.length ? row(chosen[place]) : null),
    placeOf: (found) => chosen.indexOf(found.number),
    whole, alike: async (found) => alike(found), find: async (key) => find(key),
  };
}

// The same from a server that does the filtering; rows arrive in pages.
async function servedSource(settings) {
  const ask = async (path, values) => {
    const response = await fetch(`${path}?${new URLSearchParams(values)}`, { credentials: "same-origin" });
    if (!response.ok) throw new Error((await response.text()).slice(0, 300));
    return response.json();
  };
  const { arms, languages, size, loops } = await ask("api/index", {});
  let query = {};
  let pages = new Map();
  let changed = () => {};

  const plain = (filter) => ({
    filter: JSON.stringify({
      ...filter,
      arm: filter.arm === null ? null : arms[filter.arm][1],
      language: filter.language === null ? null : languages[filter.language],
    }),
  });
  const full = (found) => ({ ...found, arm: arms.findIndex(([, name]) => name === found.arm), run: 0 });

  function pageOf(place) {
    const page = Math.floor(place / PAGE_ROWS);
    if (!pages.has(page)) {
      const mine = pages;
      const coming = ask("api/rows", { ...query, offset: page * PAGE_ROWS, limit: PAGE_ROWS }).then((rows) => {
        mine.set(page, rows.map(full));
        if (mine === pages) changed();
        return mine.get(page);
      });
      coming.catch(() => mine.delete(page));
      pages.set(page, coming);
    }
    return pages.get(page);
  }

  // The row if it is already loaded; otherwise it is requested, and the list is repainted when it arrives.
  function at(place) {
    const page = pageOf(place);
    return Array.isArray(page) ? page[place % PAGE_ROWS] ?? null : null;
  }

  return {
    arms, languages, size, loops, at,
    load: async (place) => (await pageOf(place))[place % PAGE_ROWS] ?? null,
    onchange: (call) => { changed = call; },
    select: async (filter) => {
      const wanted = plain(filter);
      const found = await ask("api/count", wanted);
      query = wanted;
      pages = new Map();
      return found;
    },
    placeOf: (found) => {
      for (const [page, rows] of pages) {
        const place = Array.isArray(rows) ? rows.findIndex((row) => row.number === found.number) : -1;
        if (place >= 0) return page * PAGE_ROWS + place;
      }
      return -1;
    },
    whole: (found) => ask("api/item", { number: found.number }),
    alike: async (found) => {
      const row = await ask("api/alike", { number: found.number });
      return row && full(row);
    },
    find: async ({ arm, language, id }) => {
      const row = await ask("api/find", { arm, language, id });
      return row && full(row);
    },
  };
}
