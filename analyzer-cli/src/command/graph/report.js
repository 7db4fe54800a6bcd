'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const $ = id => document.getElementById(id);
const signs = { allowed: '✓', partial: '◐', denied: '–', unknown: '?' };
const make = (tag, text, attributes = {}) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};
const ports = set => set === 'all' ? 'everything' : set.length === 0 ? 'nothing' : set.map(entry =>
  entry.protocol === 'OTHER' ? 'other protocols' : entry.ports.map(([a, b]) =>
    entry.protocol.toLowerCase() + '/' + (a === 1 && b === 65535 ? '*' : a === b ? a : a + '-' + b)).join(', ')).join(', ');
const place = at => at ? at.file + ':' + at.line + ':' + at.column : '';
const rule = decided => decided.policy
  ? decided.kind + ' ' + decided.policy + (decided.rule === null ? '' : ' ' + decided.direction + '[' + decided.rule + ']' + (decided.rule_name ? ' "' + decided.rule_name + '"' : ''))
  : decided.policies ? 'isolated by ' + decided.policies.join(', ') + ', which admit nothing of the kind'
  : { default: 'no policy selects it', self: 'a pod always reaches itself', 'local-node': 'traffic of the pod\'s own node', 'not-a-subject': 'no pod that policies can select' }[decided.reason] || decided.reason || '';

// The matrix: one row and one column for every group of endpoints that no policy tells apart.
const places = new Map();
const head = make('tr');
head.append(make('th', 'from ↓  to →', { scope: 'col' }));
for (const group of data.groups) head.append(make('th', group.name, { scope: 'col', title: group.members.join('\n') }));
$('matrix').tHead.append(head);
for (const [from, group] of data.groups.entries()) {
  const row = make('tr');
  row.append(make('th', group.name, { scope: 'row', title: group.members.join('\n') }));
  for (const [to, other] of data.groups.entries()) {
    const cell = data.cells[from + ' ' + to];
    const box = make('td', undefined, cell ? { class: cell.verdict } : {});
    if (cell) {
      const label = group.name + ' to ' + other.name + ': ' + cell.verdict + ', ' + ports(cell.allowed);
      const button = make('button', signs[cell.verdict], { 'aria-label': label, title: label });
      button.addEventListener('click', () => show(from, to));
      box.append(button);
      places.set(from + ' ' + to, box);
    }
    row.append(box);
  }
  $('matrix').tBodies[0].append(row);
}

function show(from, to) {
  const cell = data.cells[from + ' ' + to];
  if (!cell) return;
  for (const box of places.values()) box.classList.remove('chosen');
  places.get(from + ' ' + to).classList.add('chosen');
  const list = make('ul');
  for (const number of cell.reasons) {
    const decided = data.reasons[number];
    const item = make('li');
    const verb = decided.verdict === 'allowed' ? 'allowed ' : 'not allowed ';
    item.append(make('b', decided.direction + ': ' + verb), ports(decided.for) + ' — ' + rule(decided) + ' ', make('code', place(decided.at)));
    list.append(item);
  }
  for (const fact of cell.unknown) list.append(make('li', 'unknown: ' + fact));
  $('reason').replaceChildren(make('h3', data.groups[from].name + ' → ' + data.groups[to].name + ': ' + cell.verdict), make('p', 'Gets through: ' + ports(cell.allowed)), list);
  history.replaceState(null, '', '#cell=' + from + '-' + to);
}

// Policies and their rules, with the cells each of them decides.
const rules = new Map();
const titled = name => data.rules.find(known => known === name || known.startsWith(name + ' "')) || name;
const decides = (name, key, verdict, at) => {
  if (!rules.has(name)) rules.set(name, { cells: new Set(), at, verdict });
  rules.get(name).cells.add(key);
};
for (const [key, cell] of Object.entries(data.cells)) for (const number of cell.reasons) {
  const decided = data.reasons[number];
  if (decided.policy) decides(rule(decided), key, decided.verdict, place(decided.at));
  for (const policy of decided.policies || []) decides('NetworkPolicy ' + policy + ' (isolation)', key, decided.verdict, '');
  // Rules that passed the question on to the next tier had their part in it.
  for (const name of decided.passed || []) decides(titled(name), key, 'passed on', '');
}
for (const name of data.rules) if (!rules.has(name)) rules.set(name, { cells: new Set(), at: '', verdict: '' });
for (const [name, known] of [...rules].sort(([a], [b]) => a < b ? -1 : 1)) {
  const row = make('tr', undefined, { class: 'rule', tabindex: '0' });
  row.append(make('td', name), make('td', known.verdict), make('td', String(known.cells.size)));
  const at = make('td', undefined, { class: 'at' });
  at.append(make('code', known.at));
  row.append(at);
  const choose = () => {
    const again = row.classList.contains('chosen');
    for (const other of $('policies').querySelectorAll('.chosen')) other.classList.remove('chosen');
    for (const [key, box] of places) box.classList.toggle('hit', !again && known.cells.has(key));
    row.classList.toggle('chosen', !again);
  };
  row.addEventListener('click', choose);
  row.addEventListener('keydown', event => { if (event.key === 'Enter') choose(); });
  $('policies').tBodies[0].append(row);
}

$('filter').addEventListener('input', () => {
  const words = $('filter').value.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = data.groups.map(group => words.length === 0 || words.some(word => group.members.join(' ').toLowerCase().includes(word)));
  for (const [from, row] of [...$('matrix').tBodies[0].rows].entries()) row.hidden = !shown[from];
  for (const row of $('policies').tBodies[0].rows) row.hidden = words.length > 0 && !words.some(word => row.textContent.toLowerCase().includes(word));
});
const asked = /^#cell=(\d+)-(\d+)$/.exec(location.hash);
if (asked) show(Number(asked[1]), Number(asked[2]));
