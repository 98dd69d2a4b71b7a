/**
 * PNG files with text fields.
 *
 * Source: PNG specification, third edition.
 */

/** @typedef {readonly (readonly [string, string])[]} TextFields names and texts */

const SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
const encoder = new TextEncoder();

/**
 * @param {Uint8Array} pixels [height, width, 3]
 * @param {import("./size.js").Size} size
 * @param {TextFields} fields
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 */
export async function encodePng(pixels, { width, height }, fields) {
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint16(8, 0x0802); // 8 bits, RGB
  const parts = [
    SIGNATURE,
    chunk("IHDR", new Uint8Array(header.buffer)),
    ...fields.map(([name, text]) => textChunk(name, text)),
    chunk("IDAT", await deflate(scanlines(pixels, width))),
    chunk("IEND", new Uint8Array()),
  ];
  return concatenate(parts);
}

/**
 * tEXt where the value is Latin-1, else iTXt.
 *
 * @param {string} name
 * @param {string} text
 */
function textChunk(name, text) {
  // eslint-disable-next-line no-control-regex
  if (/^[\u0000-\u00ff]*$/.test(text)) {
    return chunk("tEXt", latin1(`${name}\0${text}`));
  }
  // Not compressed, in no language, without a translated name.
  return chunk("iTXt", concatenate([latin1(`${name}\0\0\0\0\0`), encoder.encode(text)]));
}

/**
 * @param {string} type
 * @param {Uint8Array} data
 */
function chunk(type, data) {
  const bytes = new Uint8Array(data.length + 12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set(latin1(type), 4);
  bytes.set(data, 8);
  view.setUint32(data.length + 8, crc32(bytes.subarray(4, data.length + 8)));
  return bytes;
}

/**
 * Each line begins with its filter; Sub stores differences to the pixel before.
 *
 * @param {Uint8Array} pixels
 * @param {number} width
 */
function scanlines(pixels, width) {
  const stride = 3 * width;
  const height = pixels.length / stride;
  const lines = new Uint8Array((stride + 1) * height);
  for (let y = 0; y < height; y++) {
    const to = y * (stride + 1);
    lines[to] = 1;
    for (let i = 0; i < stride; i++) {
      lines[to + 1 + i] = pixels[y * stride + i] - (i < 3 ? 0 : pixels[y * stride + i - 3]);
    }
  }
  return lines;
}

/** @param {Uint8Array} bytes */
async function deflate(bytes) {
  const stream = /** @type {ReadableStream} */ (new Response(/** @type {BodyInit} */ (bytes)).body);
  const packed = stream.pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(packed).arrayBuffer());
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

/** @param {Uint8Array} bytes */
function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** @param {string} text */
function latin1(text) {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

/** @param {readonly Uint8Array[]} parts */
function concatenate(parts) {
  const bytes = new Uint8Array(parts.reduce((total, part) => total + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}
