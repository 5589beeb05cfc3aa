// Times ONNX Runtime on a model, at its best settings: every graph optimisation, denormals flushed,
// and with more than one thread both ways in which threads can wait for work.
//
//   ORT_DIR=FOLDER node ort.js MODEL.onnx THREADS BATCH SECONDS
//
// FOLDER is where `npm install onnxruntime-node` was run. Prints a line "spin MS" and, with more
// than one thread, a line "block MS": the medians of milliseconds for a batch.
'use strict';
const path = require('path');
const { createRequire } = require('module');
const ort = createRequire(path.resolve(process.env.ORT_DIR || '.', 'x.js'))('onnxruntime-node');
const [file, threads, batch, seconds] = process.argv.slice(2);

const WARM_UP_MS = 200, MIN_RUNS = 3;
const bytes = { int8: Int8Array, uint8: Uint8Array, int32: Int32Array, int64: BigInt64Array,
    float64: Float64Array, bool: Uint8Array };

// Noise for an input; a dimension without a number is the batch where it is the first, else one.
function tensor(meta) {
    const shape = meta.shape.map((n, i) => typeof n === 'number' && n > 0 ? n : i === 0 ? +batch : 1);
    if (meta.shape.length > 0 && shape[0] !== +batch)
        throw new Error(`input '${meta.name}' has a fixed batch of ${shape[0]}`);
    const count = shape.reduce((a, b) => a * b, 1);
    if (meta.type !== 'float32')
        return new ort.Tensor(meta.type, new bytes[meta.type](count), shape);
    return new ort.Tensor('float32', new Float32Array(count).map((_, i) => Math.sin(i * 0.01)), shape);
}

async function runs(session, feeds, ms) {
    const times = [];
    for (const start = performance.now(); times.length < MIN_RUNS || performance.now() - start < ms;) {
        const before = performance.now();
        await session.run(feeds);
        times.push(performance.now() - before);
    }
    return times.sort((a, b) => a - b);
}

async function median(spinning) {
    const session = await ort.InferenceSession.create(file, {
        intraOpNumThreads: +threads, interOpNumThreads: 1, executionMode: 'sequential',
        graphOptimizationLevel: 'all', logSeverityLevel: 3,
        extra: { session: { set_denormal_as_zero: '1', intra_op: { allow_spinning: spinning } } } });
    const feeds = {};
    for (const meta of session.inputMetadata)
        feeds[meta.name] = tensor(meta);
    await runs(session, feeds, WARM_UP_MS);
    const times = await runs(session, feeds, seconds * 1000);
    await session.release();
    return times[times.length >> 1].toFixed(5);
}

(async () => {
    console.log('spin', await median('1'));
    if (+threads > 1)
        console.log('block', await median('0'));
})().catch(error => { console.error(error.message); process.exit(1); });
