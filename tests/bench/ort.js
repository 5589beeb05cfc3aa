// Times ONNX Runtime on a model: prints the median of milliseconds for a batch.
//   ORT_DIR=FOLDER node ort.js MODEL.onnx THREADS BATCH SECONDS
// FOLDER is where `npm install onnxruntime-node` was run.
'use strict';
const path = require('path');
const { createRequire } = require('module');
const ort = createRequire(path.resolve(process.env.ORT_DIR || '.', 'x.js'))('onnxruntime-node');
const [file, threads, batch, seconds] = process.argv.slice(2);

(async () => {
    const session = await ort.InferenceSession.create(file, {
        intraOpNumThreads: +threads, interOpNumThreads: 1, graphOptimizationLevel: 'all' });
    const shape = session.inputMetadata[0].shape.map((n, i) => i === 0 ? +batch : n);
    const values = new Float32Array(shape.reduce((a, b) => a * b)).map((_, i) => Math.sin(i * 0.01));
    const feeds = { [session.inputNames[0]]: new ort.Tensor('float32', values, shape) };
    for (let i = 0; i < 3; i++)
        await session.run(feeds);
    const times = [];
    for (const start = performance.now(); performance.now() - start < seconds * 1000;) {
        const before = performance.now();
        await session.run(feeds);
        times.push(performance.now() - before);
    }
    times.sort((a, b) => a - b);
    console.log(times[times.length >> 1].toFixed(5));
})().catch(error => { console.error(error.message); process.exit(1); });
