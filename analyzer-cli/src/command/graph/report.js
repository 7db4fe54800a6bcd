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

// Stretches of neighbouring cells that are alike: a number and for how many it holds, by turns.
const at = (stretches, index) => {
  let end = 0;
  for (let place = 0; place < stretches.length; place += 2) {
    end += stretches[place + 1];
    if (index < end) return stretches[place];
  }
  return null;
};
const sidesOf = (from, to) => [at(data.egress[from], to), at(data.ingress[to], from)];
const cellOf = (from, to) => {
  const answer = at(data.answer[to], from);
  if (answer === null) return undefined;
  return { ...data.answers[answer], reasons: sidesOf(from, to).flatMap(side => data.sides[side]) };
};

// The matrix: one row and one column for every group of endpoints that no policy tells apart. Of many
// groups a part is shown at a time.
const MOST = 60;
const all = data.groups.map((group, number) => number);
const axes = { from: { shown: all, start: 0 }, to: { shown: all, start: 0 } };
const windowOf = axis => axis.shown.slice(axis.start, axis.start + MOST);
const places = new Map();
let chosenCell = '';
let chosenRule = '';

function draw() {
  places.clear();
  const [rows, columns] = [windowOf(axes.from), windowOf(axes.to)];
  const head = make('tr');
  head.append(make('th', 'from ↓  to →', { scope: 'col' }));
  for (const to of columns) head.append(make('th', data.groups[to].name, { scope: 'col', title: data.groups[to].members.join('\n') }));
  $('matrix').tHead.replaceChildren(head);
  $('matrix').tBodies[0].replaceChildren(...rows.map(from => {
    const group = data.groups[from];
    const row = make('tr');
    row.append(make('th', group.name, { scope: 'row', title: group.members.join('\n') }));
    for (const to of columns) {
      const cell = cellOf(from, to);
      const box = make('td', undefined, cell ? { class: cell.verdict } : {});
      if (cell) {
        const label = group.name + ' to ' + data.groups[to].name + ': ' + cell.verdict + ', ' + ports(cell.allowed);
        const button = make('button', signs[cell.verdict], { 'aria-label': label, title: label });
        button.addEventListener('click', () => show(from, to));
        box.append(button);
        places.set(from + ' ' + to, { box, from, to });
      }
      row.append(box);
    }
    return row;
  }));
  mark();
  for (const [name, axis] of Object.entries(axes)) {
    const page = $(name + '-page');
    if (!page) continue;
    const end = Math.min(axis.start + MOST, axis.shown.length);
    page.textContent = axis.shown.length === 0 ? 'none' : (axis.start + 1) + '–' + end + ' of ' + axis.shown.length;
    $(name + '-back').disabled = axis.start === 0;
    $(name + '-on').disabled = end >= axis.shown.length;
  }
}

function mark() {
  for (const [key, { box, from, to }] of places) {
    box.classList.toggle('chosen', key === chosenCell);
    box.classList.toggle('hit', chosenRule !== '' && sidesOf(from, to).some(side => named[side].has(chosenRule)));
  }
}

if (data.groups.length > MOST) {
  $('pages').hidden = false;
  for (const [name, words] of [['from', 'Sources'], ['to', 'Destinations']]) {
    const axis = axes[name];
    const turn = by => { axis.start = Math.max(0, axis.start + by); draw(); };
    const back = make('button', '‹', { id: name + '-back', 'aria-label': words + ': back' });
    const on = make('button', '›', { id: name + '-on', 'aria-label': words + ': on' });
    back.addEventListener('click', () => turn(-MOST));
    on.addEventListener('click', () => turn(MOST));
    const line = make('p');
    line.append(make('b', words), ' ', back, ' ', make('span', '', { id: name + '-page' }), ' ', on);
    if (name === 'to') {
      const filter = make('input', undefined, { type: 'search', placeholder: 'filter destinations', 'aria-label': 'Filter destinations' });
      filter.addEventListener('input', () => { narrow(axis, filter.value); draw(); });
      line.append(' ', filter);
    }
    $('pages').append(line);
  }
}

const split = text => text.toLowerCase().split(/\s+/).filter(Boolean);
function narrow(axis, text) {
  const words = split(text);
  axis.shown = all.filter(number => words.length === 0 || words.some(word => data.groups[number].members.join(' ').toLowerCase().includes(word)));
  axis.start = 0;
}

function show(from, to) {
  const cell = cellOf(from, to);
  if (!cell) return;
  chosenCell = from + ' ' + to;
  if (!places.has(chosenCell)) {
    for (const [axis, number] of [[axes.from, from], [axes.to, to]]) {
      if (!axis.shown.includes(number)) axis.shown = all;
      axis.start = Math.floor(axis.shown.indexOf(number) / MOST) * MOST;
    }
    draw();
    places.get(chosenCell).box.scrollIntoView({ block: 'center', inline: 'center' });
  }
  mark();
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

// Policies and their rules, with how many cells each of them decides.
const rules = new Map();
const titles = new Map(data.rules.map(name => [name.replace(/ ".*"$/s, ''), name]));
const named = data.sides.map(side => {
  const names = new Set();
  const add = (name, verdict, at) => {
    names.add(name);
    if (!rules.has(name)) rules.set(name, { cells: 0, at, verdict });
  };
  for (const number of side) {
    const decided = data.reasons[number];
    if (decided.policy) add(rule(decided), decided.verdict, place(decided.at));
    for (const policy of decided.policies || []) add('NetworkPolicy ' + policy + ' (isolation)', decided.verdict, '');
    // Rules that passed the question on to the next tier had their part in it.
    for (const name of decided.passed || []) add(titles.get(name) || name, 'passed on', '');
  }
  return names;
});
for (const stretches of data.egress.concat(data.ingress)) {
  for (let place = 0; place < stretches.length; place += 2) {
    if (stretches[place] === null) continue;
    for (const name of named[stretches[place]]) rules.get(name).cells += stretches[place + 1];
  }
}
for (const name of data.rules) if (!rules.has(name)) rules.set(name, { cells: 0, at: '', verdict: '' });
for (const [name, known] of [...rules].sort(([a], [b]) => a < b ? -1 : 1)) {
  const row = make('tr', undefined, { class: 'rule', tabindex: '0' });
  row.append(make('td', name), make('td', known.verdict), make('td', String(known.cells)));
  const at = make('td', undefined, { class: 'at' });
  at.append(make('code', known.at));
  row.append(at);
  const choose = () => {
    const again = row.classList.contains('chosen');
    for (const other of $('policies').querySelectorAll('.chosen')) other.classList.remove('chosen');
    chosenRule = again ? '' : name;
    row.classList.toggle('chosen', !again);
    mark();
  };
  row.addEventListener('click', choose);
  row.addEventListener('keydown', event => { if (event.key === 'Enter') choose(); });
  $('policies').tBodies[0].append(row);
}

$('filter').addEventListener('input', () => {
  narrow(axes.from, $('filter').value);
  draw();
  const words = split($('filter').value);
  for (const row of $('policies').tBodies[0].rows) row.hidden = words.length > 0 && !words.some(word => row.textContent.toLowerCase().includes(word));
});
draw();
const asked = /^#cell=(\d+)-(\d+)$/.exec(location.hash);
if (asked) show(Number(asked[1]), Number(asked[2]));
