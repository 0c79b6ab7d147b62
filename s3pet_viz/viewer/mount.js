const shown = [];
for (const place of document.querySelectorAll("[data-s3pet-state]")) {
  const state = JSON.parse(document.getElementById(place.dataset.s3petState).textContent), heard = {};
  const bytes = (text) => {
    const signs = atob(text ?? ""), made = new Uint8Array(signs.length);
    for (let i = 0; i < made.length; i++) made[i] = signs.charCodeAt(i);
    return made;
  };
  for (const name of ["values", "scalars", "last"]) state[name] = bytes(state[name]);
  state.standing = true; // no kernel, and an address of its own
  const tell = (name) => (heard[name] ?? []).forEach((listener) => listener());
  VIEWER.render({ el: place, model: {
    get: (name) => state[name], on: (name, listener) => (heard[name] ??= []).push(listener), off() {}, send() {},
    set(name, value) { state[name] = value; tell("change"); }, save_changes() {},
  } });
  shown.push(place.s3pet.view);
}
const follow = () => {
  const found = fromLink(location.hash, shown.map((view) => view.store.doc.id));
  if (found) for (const view of shown) view.open(found);
};
follow();
addEventListener("hashchange", follow);
