// What is asked of the service. Addresses are relative, so that the page also works below a path of a proxy.

const PATIENCE = 60_000; // milliseconds until a small question is given up
const BY_STATUS = { 401: 'unauthorized', 403: 'forbidden', 408: 'timeout', 413: 'oversized-body', 502: 'network', 503: 'busy', 504: 'timeout' };
const TOKEN = 'agfnet-token';

/** A question that failed: `code` is the service's, or network, cancelled, timeout. */
export class ServiceError extends Error {
  constructor(code, message = '', { view = null, retryAfter = null } = {}) {
    super(message);
    this.code = code;
    this.view = view;
    this.retryAfter = retryAfter;
  }
}

let known = '';
try { known = sessionStorage.getItem(TOKEN) ?? ''; } catch { /* storage may be forbidden: it is asked for again after a reload */ }

export const token = {
  get: () => known,
  set: (value) => {
    known = value;
    try {
      if (value) sessionStorage.setItem(TOKEN, value); else sessionStorage.removeItem(TOKEN);
    } catch { /* lasts for this page */ }
  },
};

async function ask(path, { method = 'GET', body = null, type = null, signal = null, patience = PATIENCE } = {}) {
  const headers = { Accept: 'application/json' };
  if (type) headers['Content-Type'] = type;
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  const own = new AbortController();
  let late = false;
  const timer = patience && setTimeout(() => { late = true; own.abort(); }, patience);
  const cancel = () => own.abort();
  signal?.addEventListener('abort', cancel);
  try {
    const response = await fetch(path, { method, body, headers, signal: own.signal, cache: 'no-store', redirect: 'error' });
    const text = await response.text();
    if (response.ok) return JSON.parse(text);
    throw refusal(response, text);
  } catch (error) {
    if (error instanceof ServiceError) throw error;
    if (error instanceof SyntaxError) throw new ServiceError('internal');
    if (own.signal.aborted) throw new ServiceError(late ? 'timeout' : 'cancelled');
    throw new ServiceError('network');
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', cancel);
  }
}

function refusal(response, text) {
  let told = {};
  try { told = JSON.parse(text) ?? {}; } catch { /* a proxy's own page: the status is all that is known */ }
  const code = typeof told.code === 'string' ? told.code : BY_STATUS[response.status] ?? 'internal';
  const message = typeof told.message === 'string' ? told.message : '';
  return new ServiceError(code, message, { view: told.view ?? null, retryAfter: seconds(response.headers.get('Retry-After')) });
}

/** Retry-After as whole seconds from now, from its number or its date; null where there is none. */
function seconds(text) {
  if (!text) return null;
  const value = /^\d+$/.test(text.trim()) ? Number(text) : (Date.parse(text) - Date.now()) / 1000;
  return Number.isFinite(value) ? Math.max(1, Math.ceil(value)) : null;
}

export const readModel = (signal = null) => ask('v1/model', { signal });

/** Images are sent under the view's name: a file's own name may be that of a patient. */
export function explain(images, signal) {
  const form = new FormData();
  for (const { view, file, scale } of images) {
    form.append(view, file, view);
    if (scale) form.append(`mm_per_pixel_${view}`, scale);
  }
  return ask('v1/explain', { method: 'POST', body: form, signal, patience: null }); // it can be cancelled, and the service has a time of its own
}

export function feedback(requestId, diagnosis) {
  const body = JSON.stringify({ request_id: requestId, diagnosis });
  return ask('v1/feedback', { method: 'POST', body, type: 'application/json' });
}

/** One of the page's own sample files. */
export async function readSample(name) {
  const response = await fetch(`page/samples/${name}`, { signal: AbortSignal.timeout(PATIENCE) }).catch(() => null);
  if (!response?.ok) throw new ServiceError('network');
  return response;
}
