// The answer of the service as a page: what it says, how sure it is, why, and where.

import { icon, make } from './dom.js';
import { hundred, list, percent, say, signed, time } from './language.js';
import { viewName } from './zone.js';

const OTHER = 'other'; // what the service is told where the confirmed diagnosis is none of the model's
const SHOWN = 3; // classes that a view's own opinion names
const BAR = [5, 1, 10]; // millimetres of a scale bar, in order of preference
const PICTURE = 'data:image/png;base64,';

const chance = (logOdds) => 1 / (1 + Math.exp(-logOdds));
const ordered = (probabilities) => Object.entries(probabilities).sort((a, b) => b[1] - a[1]);

/**
 * @param answer of POST /v1/explain
 * @param model of GET /v1/model
 * @param kept what survives a change of language: `at` (Date), `sample`, `opacity` (view -> 0 to 100), `doubted` (views whose image was of the case before)
 */
export function drawAnswer(answer, model, kept) {
  const nameOf = (view) => viewName(view, model.views[view]?.kind);
  const told = { answer, model, kept, nameOf, malignant: new Set(model.malignant ?? []), views: Object.entries(answer.views) };
  return make('div', { class: 'result' }, verdict(told), probabilities(told), shares(told), evidence(told));
}

/** One sentence that says it all, for screen readers. */
export function summary(answer) {
  const state = answer.referred === null ? say('uncalibrated') : say(answer.referred ? 'referred' : 'answered');
  return `${state}. ${answer.prediction}, ${say('probability', { p: percent(answer.probability) })}.`;
}

function verdict({ answer, kept, nameOf, malignant }) {
  const state = answer.referred === null ? 'open' : answer.referred ? 'referred' : 'answered';
  const head = { open: 'uncalibrated', referred: 'referred', answered: 'answered' }[state];
  const over = { open: 'raw', referred: 'wouldBe', answered: 'likeliest' }[state];
  const truth = kept.sample ? say('sampleTruth', { diagnosis: kept.sample.diagnosis }) : null;
  return make('section', { class: `card verdict ${state}`, 'aria-labelledby': 'verdict-title' },
    make('h3', { class: 'state', id: 'verdict-title', tabindex: '-1' }, icon(state), make('span', { text: say(head) })),
    make('div', { class: 'headline' },
      make('div', {},
        make('p', { class: 'soft', text: say(over) }),
        make('p', { class: 'diagnosis' }, make('strong', { text: answer.prediction, translate: 'no' }), malignant.has(answer.prediction) ? tag('malignant') : null)),
      make('p', { class: 'chance' }, make('strong', { text: percent(answer.probability) }), make('span', { class: 'soft', text: say('probabilityHead') }))),
    why(answer, nameOf),
    remarks(answer, nameOf, kept.doubted),
    truth ? make('p', { class: 'remark sample-truth', text: truth }) : null);
}

function why(answer, nameOf) {
  if (answer.referred === null) return make('p', { text: say('uncalibratedWhy') });
  if (!answer.referred) return make('p', { text: say(Object.keys(answer.views).length > 1 ? 'answeredWhy' : 'answeredWhyOne') });
  const items = answer.reasons.map(({ code, view }) => {
    if (code === 'strange') return say('strange', { view: nameOf(view) });
    return code === 'unsure' || code === 'disagree' ? say(code) : say('otherReason', { code });
  });
  return make('div', { class: 'why' }, make('p', {}, make('strong', { text: say('reasonsTitle') })), make('ul', {}, items.map((text) => make('li', { text }))));
}

const WARNINGS = { 'burned-in': 'burnedIn', 'no-scale': 'noScale', clip: 'clip', 'upside-down': 'upsideDown' };

function remarks(answer, nameOf, doubted) {
  const lines = (answer.warnings ?? []).map(({ code, view, detail }) =>
    say(WARNINGS[code] ?? 'otherWarning', { view: nameOf(view), code, detail }));
  lines.unshift(...doubted.map((view) => say('doubted', { view: nameOf(view) })));
  if (answer.views_missing?.length) lines.unshift(say('missing', { views: list(answer.views_missing.map(nameOf)) }));
  return lines.map((text) => make('p', { class: 'remark' }, icon('warning'), make('span', { text })));
}

/** What marks a malignant diagnosis in a table, beside words for screen readers. */
const mark = () => make('span', { class: 'mark', 'aria-hidden': 'true', text: '\u25c6' });

const tag = (key) => make('span', { class: `tag ${key}`, text: say(key) });

function probabilities({ answer, model, malignant }) {
  const inside = answer.diagnosis_set && new Set(answer.diagnosis_set);
  const rows = ordered(answer.probabilities).map(([name, p]) => {
    const out = inside !== null && !inside.has(name);
    return make('tr', { class: out ? 'out' : null },
      make('th', { scope: 'row' }, make('span', { text: name, translate: 'no' }), malignant.has(name) ? ['\u00a0', mark(), make('span', { class: 'hidden', text: say('malignant') })] : null),
      make('td', { class: 'bar', 'aria-hidden': 'true' }, bar(p, out)),
      make('td', { class: 'number', text: percent(p) }),
      inside ? make('td', { class: 'set' }, out ? make('span', { class: 'hidden', text: say('outSet') }) : [icon('tick'), make('span', { text: say('inSet') })]) : null);
  });
  const head = make('tr', {}, make('th', { scope: 'col', text: say('diagnosis') }), make('td', {}), make('th', { scope: 'col', text: say('probabilityHead') }), inside ? make('th', { scope: 'col', text: say('setHead') }) : null);
  const sum = Object.entries(answer.probabilities).reduce((total, [name, p]) => total + (malignant.has(name) ? p : 0), 0);
  return make('section', { class: 'card probabilities', 'aria-labelledby': 'probabilities-title' },
    make('h3', { id: 'probabilities-title', text: say('probabilities') }),
    inside ? named(answer) : null,
    make('table', { class: 'chart' }, make('thead', { class: 'hidden' }, head), make('tbody', {}, rows)),
    malignant.size ? make('p', { class: 'soft' }, mark(), ` ${say('together', { p: percent(sum) })}`) : null,
    meaning(answer, model));
}

function named(answer) {
  return make('p', { class: 'set-line' }, say('set'), make('strong', { text: list(answer.diagnosis_set), translate: 'no' }));
}

/** What the coverage means, in numbers of cases. */
function meaning(answer, model) {
  const coverage = answer.coverage ?? model.coverage;
  if (answer.diagnosis_set === null || coverage === null || coverage === undefined) return null;
  const risk = model.risk === null || model.risk === undefined || answer.referred !== false ? null : ` ${say('answeredRisk', { risk: percent(model.risk, 0) })}`;
  return make('p', { class: 'soft meaning', text: say('setMeans', { coverage: percent(coverage, 0), hits: hundred(coverage), misses: hundred(1 - coverage) }) + (risk ?? '') });
}

function bar(p, out = false) {
  return make('span', { class: 'track' }, make('span', { class: out ? 'fill out' : 'fill', style: { width: `${(100 * p).toFixed(2)}%` } }));
}

function shares({ answer, nameOf, views }) {
  const total = answer.baseline + views.reduce((sum, [, own]) => sum + own.share, 0);
  const most = Math.max(1, Math.abs(answer.baseline), Math.abs(total), ...views.map(([, own]) => Math.abs(own.share)));
  const rows = [
    shareRow(say('start'), answer.baseline, say('startWords', { p: percent(chance(answer.baseline)) }), most, 'end'),
    ...views.map(([view, own]) => shareRow(nameOf(view), own.share, say(strength(own.share)), most, own.share < 0 ? 'against' : 'for')),
    shareRow(say('end'), total, say('endWords', { p: percent(answer.probability) }), most, 'end'),
  ];
  return make('section', { class: 'card shares', 'aria-labelledby': 'shares-title' },
    make('h3', { id: 'shares-title', text: say('shares') }),
    make('div', { class: 'opinions' }, views.map(([view, own]) => opinion(own, nameOf(view)))),
    make('h4', { class: 'rule', text: say('sharesFor', { diagnosis: answer.prediction }) }),
    make('div', { class: 'axis soft', 'aria-hidden': 'true' }, make('span', { text: `\u2190 ${say('againstAxis')}` }), make('span', { text: `${say('forAxis')} \u2192` })),
    make('ul', { class: 'signed' }, rows),
    make('p', { class: 'soft meaning', text: say('logOdds') }));
}

function shareRow(name, value, words, most, kind) {
  const width = `${(50 * Math.abs(value) / most).toFixed(2)}%`;
  const side = value < 0 ? 'right' : 'left';
  return make('li', { class: kind },
    make('p', {}, make('strong', { text: name }), say('colon'), words),
    make('span', { class: 'number', text: signed(value) }),
    make('span', { class: 'track both', 'aria-hidden': 'true' }, make('span', { class: `fill ${kind}`, style: { width, [side]: '50%' } })));
}

function strength(share) {
  const size = Math.abs(share);
  if (size < 0.1) return 'none';
  const degree = size < 0.75 ? 'slight' : size < 2 ? '' : 'strong';
  const side = share > 0 ? 'For' : 'Against';
  return degree ? degree + side : side.toLowerCase();
}

function evidence(told) {
  return make('section', { class: 'card evidence', 'aria-labelledby': 'evidence-title' },
    make('h3', { id: 'evidence-title', text: say('evidence') }),
    make('p', { class: 'soft', text: say('evidenceFor', { diagnosis: told.answer.prediction }) }),
    make('div', { class: 'figures' }, told.views.map(([view, own]) => figure(told, view, own))));
}

function figure({ answer, kept, nameOf }, view, own) {
  const name = nameOf(view);
  const over = make('img', { class: 'over', alt: say('evidenceAlt', { diagnosis: answer.prediction }), 'data-evidence': view });
  const under = make('img', { class: 'under', alt: say('frameAlt', { view: name }) });
  const stage = make('div', { class: 'stage' }, under, over);
  under.addEventListener('load', () => {
    stage.append(scaleBar(own.mm_per_pixel, under.naturalWidth));
  }, { once: true });
  for (const [image, address] of [[under, own.frame], [over, own.evidence]]) {
    if (typeof address === 'string' && address.startsWith(PICTURE)) image.src = address;
  }
  const id = `opacity-${view}`;
  const shown = make('output', { for: id });
  const slider = make('input', { type: 'range', id, min: 0, max: 100, step: 5, 'aria-label': say('opacityOf', { view: name }) });
  const apply = () => {
    kept.opacity[view] = slider.value;
    over.style.opacity = String(slider.value / 100);
    shown.textContent = percent(slider.value / 100, 0);
    slider.setAttribute('aria-valuetext', shown.textContent);
  };
  slider.value = kept.opacity[view] ?? 70;
  slider.addEventListener('input', apply);
  apply();
  return make('figure', { 'data-view': view },
    make('figcaption', { text: name }),
    stage,
    make('div', { class: 'slide' }, make('label', { for: id, text: say('opacity') }), slider, shown),
    make('div', { class: 'legend soft' }, make('span', { text: say('nothing') }), make('span', { class: 'ramp', 'aria-hidden': 'true' }), make('span', { text: say('most') })));
}

/** A bar of 5 mm, or of what fits, over a frame of so many pixels; or the words that the scale is not known. */
function scaleBar(mmPerPixel, pixels) {
  if (!mmPerPixel) return make('span', { class: 'scale unknown', text: say('scaleUnknown') });
  const share = (mm) => mm / mmPerPixel / pixels;
  const mm = BAR.find((length) => share(length) > 0.08 && share(length) < 0.7);
  if (!mm) return make('span', { class: 'scale unknown', text: '' });
  return make('span', { class: 'scale', style: { width: `${(100 * share(mm)).toFixed(2)}%` } }, make('span', { text: say('millimetres', { n: mm }) }));
}

function opinion(own, name) {
  const all = ordered(own.probabilities);
  const rest = all.slice(SHOWN);
  const rows = all.slice(0, SHOWN).map(([label, p], i) => opinionRow(make(i === 0 ? 'strong' : 'span', { text: label, translate: 'no' }), p));
  if (rest.length) rows.push(opinionRow(make('span', { class: 'soft', text: say('others', { n: rest.length }) }), rest.reduce((sum, [, p]) => sum + p, 0), true));
  return make('div', { class: 'alone' },
    make('h4', { text: say('aloneOf', { view: name }) }),
    make('table', { class: 'chart small' }, make('tbody', {}, rows)));
}

function opinionRow(label, p, out = false) {
  return make('tr', { class: out ? 'out' : null }, make('th', { scope: 'row' }, label), make('td', { class: 'bar', 'aria-hidden': 'true' }, bar(p, out)), make('td', { class: 'number', text: percent(p) }));
}

/** Where the answer goes: saved, printed, or told later how it turned out. */
export function drawRecord(answer, model, kept, send) {
  const status = make('p', { class: 'status', id: 'feedback-status', role: 'status' });
  const called = (diagnosis) => (model.classes.includes(diagnosis) ? diagnosis : say('noneOfThese'));
  const diagnoses = [...new Set([...model.classes, OTHER])]; // a class of that name is the same
  const choice = make('select', { id: 'feedback-choice', 'aria-describedby': 'feedback-hint feedback-status' },
    make('option', { value: '', text: say('choose') }), diagnoses.map((name) => make('option', { value: name, text: called(name) })));
  choice.value = kept.confirmed ?? '';
  choice.addEventListener('change', () => { kept.confirmed = choice.value; });
  const button = make('button', { type: 'submit', text: say('send') });
  const form = make('form', { id: 'feedback', novalidate: true },
    make('label', { for: 'feedback-choice', text: say('later') }),
    make('div', { class: 'line' }, choice, button),
    make('p', { class: 'soft', id: 'feedback-hint', text: say('laterHint') }),
    status);
  const tell = (text, wrong = false) => { status.textContent = text; status.classList.toggle('error', wrong); };
  if (kept.recorded) tell(say('recorded', { diagnosis: called(kept.recorded) }));
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (!choice.value) { tell(say('chooseFirst'), true); choice.focus(); return; }
    const sent = choice.value; // another may be chosen meanwhile
    button.disabled = true;
    tell(say('sending'));
    const trouble = await send(sent);
    button.disabled = false;
    if (!trouble) kept.recorded = sent;
    tell(trouble ?? say('recorded', { diagnosis: called(sent) }), Boolean(trouble));
  });
  const mix = ordered(answer.prevalence).map(([name, share]) => `${name} ${percent(share)}`).join(say('comma'));
  const facts = [[say('time'), time(kept.at)], [say('model'), `${answer.bundle_sha256.slice(0, 12)}, ${say('modelVersion', { version: answer.version })}`], [say('number'), answer.request_id], [say('mix'), mix]];
  return make('section', { class: 'card record', 'aria-labelledby': 'record-title' },
    make('h3', { id: 'record-title', text: say('record') }),
    make('div', { class: 'halves' },
      make('div', {},
        make('dl', {}, facts.map(([term, text]) => make('div', {}, make('dt', { text: term }), make('dd', { text })))),
        make('div', { class: 'actions' },
          make('button', { type: 'button', id: 'download', on: { click: () => save(answer, kept) } }, icon('download'), make('span', { text: say('download') })),
          make('button', { type: 'button', id: 'print', on: { click: () => window.print() } }, icon('print'), make('span', { text: say('print') })))),
      kept.sample ? null : form)); // nothing is confirmed of a phantom
}

/** The answer without its pictures, which are the patient's. */
function save(answer, { doubted }) {
  const views = Object.entries(answer.views).map(([view, { frame, evidence, ...figures }]) => [view, figures]);
  const told = { ...answer, views: Object.fromEntries(views), kept_from_case_before: doubted };
  const address = URL.createObjectURL(new Blob([`${JSON.stringify(told, null, 2)}\n`], { type: 'application/json' }));
  make('a', { href: address, download: `agfnet-${answer.request_id.slice(0, 8)}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
