// The page of the service: what is chosen, asked and shown. Strings are in i18n.js, one view's place in zone.js, the
// answer in result.js, questions to the service in api.js.

import { ServiceError, explain, feedback, readModel, readSample, token } from './api.js';
import { icon, make } from './dom.js';
import { bytes, language, languageTag, say, sayError, sayNotice, setLanguage } from './language.js';
import { drawAnswer, drawRecord, summary } from './result.js';
import { Zone } from './zone.js';

const find = (id) => document.getElementById(id);
const state = {
  model: null,
  zones: [],
  samples: [],
  sample: null, // the one whose images are in the zones
  taking: null, // what stands for the sample that is being read
  answer: null,
  kept: null, // what an answer's drawing keeps over a change of language
  asking: null, // AbortController while a question runs
  trouble: null, // {error, at, again}: why there is no answer, since when, and what to try again
  caseError: null, // code beside the button
  tokenError: null,
  afterToken: null, // what to do once there is a token
};

/** Said by screen readers; emptied first, so that the same sentence is said again. */
function announce(sentence) {
  const live = find('live');
  live.textContent = '';
  setTimeout(() => { live.textContent = sentence; }, 60);
}

// Drawing: everything below is drawn from the state, so that a change of language draws it all again.

function drawTexts() {
  document.documentElement.lang = languageTag();
  document.title = say('documentTitle');
  for (const element of document.querySelectorAll('[data-text]')) element.textContent = say(element.dataset.text);
  for (const element of document.querySelectorAll('[data-label]')) element.setAttribute('aria-label', say(element.dataset.label));
  for (const button of document.querySelectorAll('[data-language]')) button.setAttribute('aria-pressed', String(button.dataset.language === language()));
  find('notice').textContent = state.model ? sayNotice(state.model.notice) : say('notice');
}

function drawModel() {
  const { model } = state;
  const line = find('model-line');
  line.textContent = model ? say('modelLine', { sha: model.sha256.slice(0, 12), version: model.version, calibrated: say(model.calibrated ? 'calibrated' : 'notCalibrated') }) : '';
  if (model) line.title = model.sha256;
  find('card').hidden = !model?.card;
  find('card-text').textContent = model?.card ?? '';
}

function drawInput() {
  for (const zone of state.zones) zone.draw();
  const place = find('case-error');
  place.hidden = !state.caseError;
  place.textContent = state.caseError ? sayError(state.caseError) : '';
  find('formats').textContent = state.model ? say('formats', { size: bytes(state.model.limits.max_bytes) }) : '';
  find('analyse').hidden = !state.model;
  find('clear').hidden = !state.zones.some((zone) => zone.file);
  find('samples').hidden = !state.samples.length;
  find('sample-list').replaceChildren(...state.samples.map(sampleButton));
  const complaint = find('token-error');
  complaint.hidden = !state.tokenError;
  complaint.textContent = state.tokenError ? sayError(state.tokenError) : '';
  find('forget').hidden = !token.get();
}

function sampleButton(sample) {
  const picture = (name) => make('img', { src: `page/samples/${name}`, alt: '', width: 56, height: 56 });
  const button = make('button', { type: 'button', 'data-sample': sample.id, 'aria-pressed': String(state.sample === sample), on: { click: () => takeSample(sample) } },
    make('span', { class: 'pair' }, picture(sample.photo), picture(sample.ultrasound)), make('span', { text: say('sample', { id: sample.id }) }));
  return make('li', {}, button);
}

function drawOutput() {
  const place = find('answer');
  find('analyse').setAttribute('aria-disabled', String(Boolean(state.asking)));
  find('output').setAttribute('aria-busy', String(Boolean(state.asking)));
  if (state.asking) place.replaceChildren(busyCard());
  else if (state.trouble) place.replaceChildren(troubleCard(state.trouble));
  else if (state.answer) place.replaceChildren(drawAnswer(state.answer, state.model, state.kept), drawRecord(state.answer, state.model, state.kept, sendFeedback));
  else if (state.model) place.replaceChildren(waitingCard());
  else place.replaceChildren(...(find('token-form').hidden ? [busyCard()] : []));
}

function waitingCard() {
  const items = ['waiting1', 'waiting2', 'waiting3', 'waiting4'].map((key) => make('li', { text: say(key) }));
  return make('div', { class: 'card waiting' },
    make('div', { class: 'emblem', 'aria-hidden': 'true' }, icon('photo'), make('span', { text: '+' }), icon('ultrasound')),
    make('h3', { text: say('waiting') }), make('p', { class: 'soft', text: say('waitingText') }), make('ul', {}, items));
}

function busyCard() {
  const loading = !state.model;
  return make('div', { class: 'card waiting' },
    make('h3', { text: loading ? say('loadingModel') : say('busy') }),
    make('div', { class: 'progress', 'aria-hidden': 'true' }, make('span', {})),
    loading ? null : make('p', { class: 'soft', text: say('busyText') }),
    loading ? null : make('div', { class: 'actions' }, make('button', { type: 'button', id: 'cancel', text: say('cancel'), on: { click: () => state.asking?.abort() } })));
}

function troubleCard({ error, at, again }) {
  const left = () => Math.ceil((error.retryAfter ?? 0) - (Date.now() - at) / 1000);
  const wait = make('span', { class: 'soft', 'aria-hidden': 'true' });
  const tick = () => {
    wait.textContent = left() > 0 ? say('retryIn', { seconds: left() }) : '';
    if (left() > 0 && state.trouble?.error === error) setTimeout(tick, 500);
  };
  tick();
  return make('div', { class: 'card trouble' },
    make('h3', { class: 'state' }, icon('warning'), make('span', { text: say(state.model ? 'failed' : 'failedModel') })),
    make('p', { id: 'trouble', text: sayError(error.code, error.message) }),
    state.zones.some((zone) => zone.file) ? make('p', { text: say('stillHere') }) : null,
    again ? make('div', { class: 'actions' }, make('button', { type: 'button', id: 'again', class: 'primary', text: say('retry'), 'aria-describedby': 'trouble', on: { click: again } }), wait) : null);
}

function drawAll() {
  drawTexts();
  drawModel();
  drawInput();
  drawOutput();
}

// What happens.

async function begin({ again = false } = {}) {
  const restart = () => begin({ again: true });
  state.trouble = null;
  drawAll();
  try {
    state.model = await readModel();
  } catch (error) {
    if (wantsToken(error, restart)) return;
    state.trouble = { error, at: Date.now(), again: restart };
    drawAll();
    announce(sayError(error.code, error.message));
    return;
  }
  closeToken();
  state.zones = Object.entries(state.model.views).map(([view, spec]) => new Zone(view, spec, state.model.limits, imagesChanged));
  find('zones').replaceChildren(...state.zones.map((zone) => zone.element));
  drawAll();
  if (again) { // what had the focus is gone: the token's field, or the button to try again
    announce(say('ready'));
    state.zones[0]?.focus();
  }
  await readSamples();
  drawInput();
}

async function readSamples() {
  const kinds = new Set(state.zones.map((zone) => zone.kind));
  if (!kinds.has('photo') || !kinds.has('ultrasound')) return;
  try {
    state.samples = (await (await readSample('samples.json')).json()).cases;
  } catch { state.samples = []; } // an addition: the page works without
}

/**
 * An answer belongs to the images that it was asked for: it goes when they change.
 *
 * Images of two cases must not be taken for one lesion's. So a file takes those of a sample away, and those that were asked
 * about before are marked.
 */
function imagesChanged(sentence, zone = null, { scaleAlone = false } = {}) {
  const before = state.answer;
  const others = scaleAlone || !zone?.file ? [] : state.zones.filter((other) => other !== zone);
  for (const other of others) {
    if (other.sample) other.clear();
    else other.earlier = other.asked;
  }
  state.sample = state.zones.some((own) => own.sample) ? state.sample : null;
  state.caseError = null;
  state.asking?.abort();
  Object.assign(state, { answer: null, asking: null, taking: null, kept: null, trouble: null });
  drawInput();
  drawOutput();
  const doubts = others.filter((other) => other.earlier).map((other) => `${other.name}: ${say('ofBefore')}`);
  if (sentence || before) announce([before && say('cleared'), sentence, ...doubts].filter(Boolean).join(' '));
}

async function takeSample(sample) {
  const taking = state.taking = {}; // only the last one that is asked for, and none once another file is chosen
  try {
    const read = async (name) => { const blob = await (await readSample(name)).blob(); return new File([blob], name, { type: blob.type }); };
    const files = { photo: await read(sample.photo), ultrasound: await read(sample.ultrasound) };
    if (state.taking !== taking) return;
    const taken = new Set();
    for (const zone of state.zones) {
      if (!files[zone.kind] || taken.has(zone.kind)) { zone.clear(); continue; }
      taken.add(zone.kind);
      const chosen = zone.choose(files[zone.kind], { scale: zone.kind === 'ultrasound' ? String(sample.mm_per_pixel) : null, quiet: true });
      zone.sample = true;
      await chosen;
      if (state.taking !== taking) return;
    }
  } catch (error) {
    if (state.taking !== taking) return;
    const told = error instanceof ServiceError ? error : new ServiceError('network');
    state.caseError = told.code;
    drawInput(); // and the rest stays as it is
    announce(`${say('sampleFailed', { id: sample.id })} ${sayError(told.code, told.message)}`);
    return;
  }
  state.sample = sample;
  imagesChanged(say('sampleLoaded', { id: sample.id }));
  find('analyse').focus();
}

/** What the zones are made for. */
const inputs = ({ views }) => JSON.stringify(Object.entries(views).map(([view, { kind }]) => [view, kind]));

/** The model that an answer is of, read again where the service has been started with another one since. */
async function modelOf(answer, signal) {
  if (answer.bundle_sha256 === state.model.sha256) return state.model;
  const model = await readModel(signal);
  if (model.sha256 !== answer.bundle_sha256 || inputs(model) !== inputs(state.model)) throw new ServiceError('other-model');
  return model;
}

async function analyse() {
  if (state.asking) return;
  const chosen = state.zones.filter((zone) => zone.file);
  state.caseError = chosen.length ? null : 'no-view';
  if (!chosen.length) {
    drawInput();
    announce(sayError('no-view'));
    state.zones[0]?.focus();
    return;
  }
  const wrong = chosen.filter((zone) => !zone.check());
  if (wrong.length) {
    wrong[0].focus();
    return;
  }
  const asking = new AbortController();
  Object.assign(state, { asking, answer: null, taking: null, trouble: null, tokenError: null });
  for (const zone of chosen) {
    zone.asked = true;
    zone.fail(null);
  }
  drawInput();
  drawOutput();
  announce(`${say('busy')}. ${say('busyText')}`);
  try {
    const answer = await explain(chosen.map(({ view, file, scale }) => ({ view, file, scale })), asking.signal);
    const model = await modelOf(answer, asking.signal);
    if (state.asking !== asking || asking.signal.aborted) return;
    const doubted = chosen.filter((zone) => zone.earlier).map((zone) => zone.view);
    for (const zone of state.zones) zone.earlier = false; // asked about together
    Object.assign(state, { asking: null, model, answer, trouble: null, kept: { at: new Date(), sample: state.sample, opacity: {}, confirmed: null, doubted } });
    closeToken();
    drawAll();
    announce(say('done', { sentence: summary(answer) }));
    show(find('verdict-title'));
  } catch (error) {
    if (state.asking === asking) refused(error, asking);
  } finally {
    if (state.asking === asking) { state.asking = null; drawOutput(); }
  }
}

/** Say why there is no answer where the reader can put it right: beside the zone, in the token's field, or in its place. */
function refused(error, asking) {
  const told = error instanceof ServiceError ? error : new ServiceError('internal');
  state.asking = null;
  if (wantsToken(told, analyse)) return;
  if (told.code === 'cancelled') {
    drawOutput();
    announce(`${sayError('cancelled')} ${say('stillHere')}`);
    if (document.activeElement === document.body) find('analyse').focus(); // the button to cancel is gone
    return;
  }
  const zone = state.zones.find((own) => own.view === told.view);
  if (zone) {
    zone.fail(told);
    drawOutput();
    announce(`${zone.name}: ${zone.complaint.textContent}`);
    zone.focus();
    return;
  }
  state.trouble = { error: told, at: Date.now(), again: ['oversized-body', 'other-model', 'forbidden'].includes(told.code) ? null : analyse };
  drawOutput();
  if (asking) show(find('again') ?? find('answer').querySelector('h3'));
  announce(`${say('failed')}: ${sayError(told.code, told.message)}`);
}

/** Bring into view and focus, without a moving page for those who do not want one. */
function show(element) {
  if (!element) return;
  element.focus({ preventScroll: true });
  const calm = window.matchMedia('(prefers-reduced-motion: reduce)').matches;
  const target = element.closest('.card') ?? element;
  const { top } = target.getBoundingClientRect();
  if (top < 0 || top > window.innerHeight * 0.5) target.scrollIntoView({ behavior: calm ? 'auto' : 'smooth', block: 'start' });
}

async function sendFeedback(diagnosis) {
  try {
    await feedback(state.answer.request_id, diagnosis);
    return null;
  } catch (error) {
    wantsToken(error, null);
    return sayError(error.code, error.message);
  }
}

// The token.

function wantsToken(error, next) {
  if (!(error instanceof ServiceError) || error.code !== 'unauthorized') return false;
  const told = token.get() ? 'wrongToken' : 'unauthorized';
  state.tokenError = told === 'unauthorized' ? null : told; // the field itself says that one is wanted
  state.afterToken = next;
  find('token-form').hidden = false;
  drawInput();
  if (next) {
    drawOutput();
    find('token').focus();
    announce(sayError(told));
  }
  return true;
}

function closeToken() {
  state.tokenError = null;
  find('token-form').hidden = true;
  find('token').value = '';
}

find('token-form').addEventListener('submit', (event) => {
  event.preventDefault();
  const typed = find('token').value.trim();
  if (!typed) { find('token').focus(); return; }
  token.set(typed);
  const next = state.afterToken;
  closeToken();
  drawInput();
  next?.();
});
find('forget').addEventListener('click', () => { // the next person at this screen shall not see the case either
  token.set('');
  for (const zone of state.zones) zone.clear();
  if (state.model) imagesChanged(null);
  else drawInput(); // why the page could not start stays said
  announce(say('forgotten'));
  find('main').focus();
});

// The page itself.

find('case').addEventListener('submit', (event) => { event.preventDefault(); analyse(); });
find('clear').addEventListener('click', () => {
  for (const zone of state.zones) zone.clear();
  imagesChanged(null);
  state.zones[0]?.focus();
});
for (const button of document.querySelectorAll('[data-language]')) {
  button.addEventListener('click', () => { setLanguage(button.dataset.language); drawAll(); });
}
for (const type of ['dragover', 'drop']) document.addEventListener(type, (event) => event.preventDefault()); // a file dropped beside a zone must not replace the page

const wantsDark = window.matchMedia('(prefers-color-scheme: dark)');
const isDark = () => (document.documentElement.dataset.theme ?? (wantsDark.matches ? 'dark' : 'light')) === 'dark';
const drawTheme = () => find('theme').setAttribute('aria-pressed', String(isDark()));
find('theme').addEventListener('click', () => {
  document.documentElement.dataset.theme = isDark() ? 'light' : 'dark';
  try { localStorage.setItem('agfnet-theme', document.documentElement.dataset.theme); } catch { /* lasts for this page */ }
  drawTheme();
});
try {
  const theme = localStorage.getItem('agfnet-theme');
  if (theme === 'dark' || theme === 'light') document.documentElement.dataset.theme = theme;
} catch { /* the system's */ }
wantsDark.addEventListener('change', drawTheme);
drawTheme();
begin();
