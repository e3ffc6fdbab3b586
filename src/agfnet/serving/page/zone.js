// One view's place for a file: a label and an input, so that it works by keyboard; dropping is an addition.

import { icon, make } from './dom.js';
import { bytes, say, sayError } from './language.js';

const ACCEPT = 'image/*,.dcm,.dicom,.ima,.tif,.tiff,application/dicom';
/** Millimetres per pixel outside of these are another unit; the service refuses them too. */
const [LEAST_SCALE, MOST_SCALE] = [0.0005, 2];
/** Errors of a file that sending it could only repeat. */
const UNSENDABLE = new Set(['empty-file', 'oversized-file', 'unreadable-file']);
/** Errors of the typed scale. */
const OF_SCALE = new Set(['bad-scale', 'implausible-scale']);
const KIND_NAMES = { photo: 'kindPhoto', dermoscopy: 'kindDermoscopy', ultrasound: 'kindUltrasound' };
const USUAL = new Set(['clinical', 'photo', 'ultrasound', 'dermoscopy', 'dermoscopic', 'derm']);

/** What a reader calls a view. */
export function viewName(view, kind) {
  const name = KIND_NAMES[kind] ? say(KIND_NAMES[kind]) : view;
  return USUAL.has(view) || name === view ? name : say('named', { kind: name, name: view });
}

async function isDicom(file) {
  if (/\.(dcm|dicom)$/i.test(file.name) || file.type === 'application/dicom') return true;
  const start = new Uint8Array(await file.slice(128, 132).arrayBuffer());
  return String.fromCharCode(...start) === 'DICM';
}

export class Zone {
  /**
   * Of its file: `sample` whether it is one of a sample's, `asked` whether it was asked about, `earlier` whether another
   * of that case has been replaced since.
   *
   * @param view the modality's name
   * @param spec what the model says of it: kind, depth, size, mm_per_pixel
   * @param limits the service's
   * @param onChange called after a file came or went, or its scale was typed: with a sentence for screen readers or
   *   null, this zone, and {scaleAlone}
   */
  constructor(view, spec, limits, onChange) {
    Object.assign(this, { view, kind: spec.kind, limits, onChange, file: null, address: null, error: null, note: null, sample: false, asked: false, earlier: false });
    const id = `file-${view}`;
    this.input = make('input', { type: 'file', id, accept: ACCEPT, class: 'hidden', 'aria-describedby': `formats note-${view} doubt-${view} error-${view}`, on: { change: () => this.#picked() } });
    this.picture = make('span', { class: 'thumb' });
    this.title = make('span', { class: 'zone-title' });
    this.hint = make('span', { class: 'soft' });
    this.label = make('label', { for: id, class: 'drop' }, this.picture, make('span', { class: 'zone-text' }, this.title, this.hint));
    this.removal = make('button', { type: 'button', class: 'quiet small remove', hidden: true, on: { click: () => this.#remove() } }, icon('remove'), make('span', { class: 'hidden' }));
    this.remark = make('p', { class: 'soft note', id: `note-${view}` });
    this.doubt = make('p', { class: 'remark', id: `doubt-${view}`, hidden: true });
    this.complaint = make('p', { class: 'error', id: `error-${view}`, hidden: true });
    this.element = make('div', { class: 'zone', 'data-view': view }, this.input, this.label, this.removal);
    if (spec.depth || spec.mm_per_pixel) this.element.append(this.#scaleField());
    this.element.append(this.remark, this.doubt, this.complaint);
    this.#listenForDrops();
    this.draw();
  }

  get name() {
    return viewName(this.view, this.kind);
  }

  /** The typed scale as the service reads it: a comma is a point; empty where there is none. */
  get scale() {
    return this.scaleInput?.value.trim().replace(',', '.') ?? '';
  }

  #scaleField() {
    const id = `scale-${this.view}`;
    this.scaleInput = make('input', { id, type: 'text', inputmode: 'decimal', autocomplete: 'off', maxlength: 12, 'aria-describedby': `${id}-hint error-${this.view}`, on: { input: () => { this.fail(null); this.onChange(null, this, { scaleAlone: true }); } } });
    this.scaleLabel = make('label', { for: id });
    this.scaleHint = make('span', { class: 'soft', id: `${id}-hint` });
    return make('div', { class: 'scale-field' }, this.scaleLabel, this.scaleInput, this.scaleHint);
  }

  #listenForDrops() {
    let depth = 0; // children also fire enter and leave
    const over = (change) => { depth = Math.max(0, depth + change); this.element.classList.toggle('over', depth > 0); };
    this.element.addEventListener('dragenter', (event) => { event.preventDefault(); over(1); });
    this.element.addEventListener('dragleave', () => over(-1));
    this.element.addEventListener('dragover', (event) => event.preventDefault());
    this.element.addEventListener('drop', (event) => {
      event.preventDefault();
      over(-depth);
      const { files } = event.dataTransfer;
      if (files.length) this.choose(files[0], { several: files.length > 1 });
    });
  }

  #picked() {
    const [file] = this.input.files;
    this.input.value = ''; // so that the same file can be chosen again after it was mended
    if (file) this.choose(file);
  }

  /** Take a file; what can be seen at once to be wrong is said at once. */
  async choose(file, { scale = null, several = false, quiet = false } = {}) {
    this.#forget();
    if (this.scaleInput) this.scaleInput.value = scale ?? ''; // a scale belongs to one file
    this.file = file;
    this.note = several ? 'several' : null;
    const code = file.size === 0 ? 'empty-file' : file.size > this.limits.max_bytes ? 'oversized-file' : null;
    this.fail(code && { code });
    const tell = () => this.onChange(this.error ? `${this.name}: ${this.complaint.textContent}` : say('chosen', { view: this.name }), this);
    if (!quiet) tell(); // before it is read: an earlier answer is not of this file, whether it can be read or not
    const dicom = await isDicom(file).catch(() => null); // such as a folder, or a file that was moved
    if (this.file !== file) return; // another came meanwhile
    if (dicom === null) {
      this.fail({ code: 'unreadable-file' });
      tell();
      return;
    }
    this.dicom = dicom;
    if (!dicom) this.#preview(file);
    this.draw();
  }

  #preview(file) {
    this.address = URL.createObjectURL(file);
    this.image = make('img', { alt: '', src: this.address, on: { load: () => this.draw(), error: () => { this.image = null; this.draw(); } } });
  }

  #forget() {
    if (this.address) URL.revokeObjectURL(this.address);
    Object.assign(this, { file: null, address: null, image: null, dicom: false, note: null, sample: false, asked: false, earlier: false });
    this.fail(null);
  }

  clear() {
    this.#forget();
    if (this.scaleInput) this.scaleInput.value = '';
    this.draw();
  }

  #remove() {
    this.clear();
    this.input.focus(); // the button that had the focus is gone
    this.onChange(say('removed', { view: this.name }), this);
  }

  /** Show an error beside the zone, or take it away. */
  fail(error) {
    this.error = error;
    this.#drawError();
  }

  /** Whether what was typed and chosen can be sent; else the error stands beside it. */
  check() {
    if (UNSENDABLE.has(this.error?.code)) return false;
    const scale = this.scale === '' ? null : Number(this.scale);
    const wrong = this.file !== null && scale !== null && !(scale >= LEAST_SCALE && scale <= MOST_SCALE);
    this.fail(wrong ? { code: 'bad-scale' } : null);
    return !wrong;
  }

  /** Where the reader puts it right. */
  focus() {
    (OF_SCALE.has(this.error?.code) && this.scaleInput ? this.scaleInput : this.input).focus();
  }

  #drawError() {
    const { error } = this;
    this.complaint.hidden = !error;
    this.complaint.textContent = error ? sayError(error.code, error.message, { size: bytes(this.limits.max_bytes) }) : '';
    this.element.classList.toggle('wrong', Boolean(error));
    const scale = OF_SCALE.has(error?.code);
    this.input.setAttribute('aria-invalid', String(Boolean(error) && !scale));
    this.scaleInput?.setAttribute('aria-invalid', String(scale));
  }

  /** Everything again, in the present language. */
  draw() {
    const { file, image } = this;
    this.element.classList.toggle('filled', file !== null);
    this.title.textContent = this.name;
    this.hint.textContent = file ? say('replace') : say('dropHere');
    this.remark.textContent = file ? this.#facts() : '';
    this.doubt.hidden = !this.earlier;
    this.doubt.replaceChildren(...(this.earlier ? [icon('warning'), make('span', { text: say('ofBefore') })] : []));
    this.picture.dataset.word = file && this.dicom ? 'DICOM' : '';
    this.picture.replaceChildren(file && image ? image : icon(file ? 'file' : this.kind in KIND_NAMES ? this.kind : 'file'));
    this.removal.hidden = !file;
    this.removal.lastChild.textContent = say('removeOf', { view: this.name });
    this.removal.title = say('remove');
    if (this.scaleInput) {
      this.scaleLabel.textContent = say('scale');
      this.scaleHint.textContent = say('scaleHint');
      this.scaleInput.parentElement.hidden = !file;
    }
    this.#drawError();
  }

  /** Kind and size, never the name of the file: it may be that of a patient. */
  #facts() {
    const { file, image, dicom } = this;
    const parts = dicom ? [say('dicom')] : image ? [file.type.replace(/^image\//, '').toUpperCase()] : [say('noPreview')];
    if (image?.naturalWidth) parts.push(say('pixels', { width: image.naturalWidth, height: image.naturalHeight }));
    parts.push(bytes(file.size));
    return parts.filter(Boolean).join(say('comma')) + (this.note ? `. ${say(this.note)}` : '');
  }
}
