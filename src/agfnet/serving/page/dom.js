// Small helpers that make elements. Text is always set as text, never as markup.

const SVG = 'http://www.w3.org/2000/svg';

/**
 * An element. Properties: `class`, `text`, `on` (event -> listener), `style` (property -> value, set from script as the
 * content policy forbids style attributes); anything else is an attribute, left out where it is null or false.
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === 'class') element.className = value;
    else if (name === 'text') element.textContent = value;
    else if (name === 'on') for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === 'style') for (const [property, own] of Object.entries(value)) element.style.setProperty(property, own);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const ICONS = {
  photo: 'M4 8h3.5l1.5-2.5h6L16.5 8H20v11H4zM12 16.5a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7z',
  dermoscopy: 'M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM15.5 15.5L20.5 20.5M8 9.5a3 3 0 0 1 3-2',
  ultrasound: 'M9 3h6v5l2 2H7l2-2zM6.5 13.5c3.5 2 7.5 2 11 0M5 16.5c4.5 2.7 9.5 2.7 14 0M3.5 19.5c5.5 3.2 11.5 3.2 17 0',
  file: 'M6 3.5h8l4 4v13H6zM14 3.5v4h4M9 12.5h6M9 16h6',
  answered: 'M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM8 12.3l2.8 2.8L16.2 9.5',
  referred: 'M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM8 12h7.5M12.5 8.5L16 12l-3.5 3.5',
  open: 'M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18zM9.5 9.7c.2-3.2 5-3 5 0 0 2-2.5 2-2.5 4M12 16.7v.1',
  warning: 'M12 4l9 16H3zM12 10v5M12 17.3v.1',
  tick: 'M5 12.5l4.5 4.5L19 7.5',
  remove: 'M6.5 6.5l11 11M17.5 6.5l-11 11',
  download: 'M12 4v11M7.5 11l4.5 4.5L16.5 11M5 20h14',
  print: 'M7 9V4h10v5M7 17H4V9h16v8h-3M7 14h10v6H7z',
};

/** A line icon that screen readers pass over. */
export function icon(name) {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('class', 'icon');
  svg.setAttribute('aria-hidden', 'true');
  const path = document.createElementNS(SVG, 'path');
  path.setAttribute('d', ICONS[name]);
  svg.append(path);
  return svg;
}
