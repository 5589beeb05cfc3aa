// Compares models with ONNX Runtime on random images: one row of a Markdown table for each.
//   ORT_DIR=FOLDER BATCHES="1 3 8" LIMIT=1e-4 node models.js MODEL-RUN SCRATCH MODEL.onnx...
// FOLDER is where `npm install onnxruntime-node` was run. Exits with 1 when a model disagrees.
'use strict';
const fs = require('fs');
const path = require('path');
const { spawnSync } = require('child_process');
const { createRequire } = require('module');
const ort = createRequire(path.resolve(process.env.ORT_DIR || '.', 'x.js'))('onnxruntime-node');
const [tool, scratch, ...files] = process.argv.slice(2);
const batches = (process.env.BATCHES || '1 3 8').split(' ').map(Number);
const limit = +(process.env.LIMIT || 1e-4);
const images = Math.max(...batches);

const product = numbers => numbers.reduce((a, b) => a * b, 1);

// Uniform in -1 … 1, the same for every run.
function randomImages(count) {
    const x = new Float32Array(count);
    for (let i = 0, state = 1; i < count; i++) {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        x[i] = state / 2 ** 31 - 1;
    }
    return x;
}

// float32 to the bits of a float16, to nearest even, and back; for values of moderate size.
function toHalf(x) {
    const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0, a = Math.abs(x);
    const exponent = Math.max(Math.floor(Math.log2(a || 2 ** -30)), -14);
    const scaled = a / 2 ** (exponent - 10);
    let rounded = Math.round(scaled);
    if (rounded - scaled === 0.5 && rounded % 2 === 1)
        rounded--;
    return sign + (exponent + 14) * 1024 + rounded;
}

function fromHalf(bits) {
    const exponent = bits >> 10 & 31, fraction = bits & 1023;
    const size = exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24;
    return bits & 0x8000 ? -size : size;
}

function floats(data) {
    return data instanceof Float32Array ? data : Float32Array.from(data, fromHalf);
}

async function runPeer(session, x, dims, batch) {
    const type = session.inputMetadata[0].type, fixed = session.inputMetadata[0].shape[0];
    const step = typeof fixed === 'number' && fixed > 0 ? fixed : batch, size = product(dims);
    const parts = [];
    for (let i = 0; i < batch; i += step) {
        const part = x.subarray(i * size, (i + step) * size);
        const tensor = new ort.Tensor(
            type, type === 'float16' ? Uint16Array.from(part, toHalf) : part, [step, ...dims]);
        const result = await session.run({ [session.inputNames[0]]: tensor });
        parts.push(...floats(result[session.outputNames[0]].data));
    }
    return Float32Array.from(parts);
}

const argmax = x => x.reduce((best, v, i) => v > x[best] ? i : best, 0);

// Largest difference as a share of the peer's range, and whether every image has the same class.
function compare(own, peer, batch) {
    let low = Infinity, high = -Infinity, worst = 0, same = own.length === peer.length;
    for (let i = 0; i < peer.length; i++) {
        low = Math.min(low, peer[i]);
        high = Math.max(high, peer[i]);
        const d = Math.abs(own[i] - peer[i]);
        worst = d <= worst ? worst : d; // NaN stays
    }
    for (let i = 0, size = peer.length / batch; i < batch && same; i++)
        same = argmax(own.subarray(i * size, (i + 1) * size)) ===
            argmax(peer.subarray(i * size, (i + 1) * size));
    return { error: worst / (high - low), same };
}

function convd(args) {
    const done = spawnSync(tool, args, { encoding: 'utf8' });
    if (done.status !== 0)
        throw new Error((done.stderr || String(done.error || done.signal)).trim());
    return JSON.parse(done.stdout);
}

async function row(file) {
    const about = convd([file]), dims = about.input.shape.slice(1), size = product(dims);
    const session = await ort.InferenceSession.create(file);
    let x = randomImages(images * size);
    if (session.inputMetadata[0].type === 'float16')
        x = x.map(v => fromHalf(toHalf(v)));
    const input = path.join(scratch, 'in.f32'), output = path.join(scratch, 'out.f32');
    fs.writeFileSync(input, x);
    convd([file, input, output, ...batches.map(String)]);
    const bytes = fs.readFileSync(output);
    const all = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
    const each = all.length / batches.reduce((a, b) => a + b), cells = [];
    let first = 0, good = true;
    for (const batch of batches) {
        let own = all.subarray(first * each, (first + batch) * each);
        if (session.outputMetadata[0].type === 'float16') // the peer's is rounded to that
            own = own.map(v => fromHalf(toHalf(v)));
        const { error, same } = compare(own, await runPeer(session, x, dims, batch), batch);
        first += batch;
        good = good && same && error <= limit;
        cells.push(error.toExponential(1) + (same ? '' : ' (other class)'));
    }
    await session.release();
    const text = [path.basename(file, '.onnx'), about.opset, ...cells, good ? 'yes' : '**no**'];
    console.log(`| ${text.join(' | ')} |`);
    return good;
}

(async () => {
    let bad = 0;
    console.log(`| model | opset | ${batches.map(b => `batch ${b}`).join(' | ')} | agrees |`);
    console.log(`|---|--:|${'--:|'.repeat(batches.length)}---|`);
    for (const file of files)
        bad += !await row(file).catch(error => {
            console.log(`| ${path.basename(file, '.onnx')} | ${error.message} |`);
            return false;
        });
    console.log(`\n${files.length - bad} of ${files.length} models agree with ONNX Runtime`);
    process.exit(bad ? 1 : 0);
})();
