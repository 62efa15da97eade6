/* paste.js - text of facts as the body of a request. The facts stay as they were written, character
 * for character, so that it is the daemon that judges them: only what is around them is added. */

/* [{text, start, end}] of the lines that are not blank. */
function linesOf(text) {
  const lines = [];
  let start = 0;
  for (const line of text.split('\n')) {
    if (line.trim()) lines.push({ text: line, start, end: start + line.length });
    start += line.length + 1;
  }
  return lines;
}

function isObject(value) {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function parsed(text) {
  try {
    return { value: JSON.parse(text) };
  } catch (error) {
    return { error };
  }
}

function lineNumber(text, at) {
  return text.slice(0, at).split('\n').length;
}

function readLines(text) {
  const lines = linesOf(text);
  const facts = [];
  for (const line of lines) {
    const { value, error } = parsed(line.text);
    const number = lineNumber(text, line.start);
    if (error) return { problem: `Line ${number} is no JSON: ${error.message}`, range: line };
    if (!isObject(value)) return { problem: `Line ${number} is no JSON object.`, range: line };
    facts.push(value);
  }
  return { text: `{"facts":[${lines.map((line) => line.text).join(',\n')}]}`, facts, places: lines };
}

/* Several lines that are objects, or begin as such: JSON over several lines closes on one that does
 * not. */
function isLines(text) {
  const lines = linesOf(text);
  return lines.length > 1
    && (isObject(parsed(lines[0].text).value) || lines.every((line) => line.text.trimStart().startsWith('{')));
}

/* {text: the body, facts, places: where each fact stands, if known}, or {problem, range}. */
export function readFacts(text) {
  if (!text.trim()) return { problem: 'There is nothing to check: paste facts first.' };
  const { value, error } = parsed(text);
  if (error) {
    return isLines(text) ? readLines(text) : { problem: `This is no JSON: ${error.message}` };
  }
  if (Array.isArray(value)) return { text: `{"facts":${text}}`, facts: value, places: [] };
  if (!isObject(value)) return { problem: 'Expected {"facts": [...]}, a list of facts, or a fact a line.' };
  if (Array.isArray(value.facts)) return { text, facts: value.facts, places: [] };
  return { text: `{"facts":[${text}]}`, facts: [value], places: [] };
}

/* A JSON object's text with a further member at its beginning. */
export function withMember(text, name, value) {
  const at = text.indexOf('{') + 1;
  const rest = text.slice(at);
  const comma = rest.trimStart().startsWith('}') ? '' : ',';
  return `${text.slice(0, at)}${JSON.stringify(name)}:${JSON.stringify(value)}${comma}${rest}`;
}
