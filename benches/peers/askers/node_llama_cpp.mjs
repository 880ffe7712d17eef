// node-llama-cpp, by `sequence.evaluate`: the API closest to its loop, without texts. Arguments: the folder that it is
// installed in, and what to load; see lines.py for what is said.

import {createRequire} from "node:module";
import {createInterface} from "node:readline";

const [home, what] = process.argv.slice(2);
const {model: modelPath, n_ctx: contextSize, n_ubatch: batchSize, threads} = JSON.parse(what);
const {getLlama} = await import(createRequire(`${home}/package.json`).resolve("node-llama-cpp"));
const began = performance.now();
const llama = await getLlama({gpu: false, build: "never", logLevel: "disabled", maxThreads: threads});
const model = await llama.loadModel({modelPath});
const context = await model.createContext({contextSize, batchSize, threads});
const sequence = context.getSequence();

const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
say({load: (performance.now() - began) / 1000});
for await (const line of createInterface({input: process.stdin})) {
    const {tokens, n} = JSON.parse(line);
    const asked = performance.now();
    const times = [];
    await sequence.clearHistory();
    for await (const _ of sequence.evaluate(tokens, {temperature: 0})) {
        times.push((performance.now() - asked) / 1000);
        if (times.length === n) break;
    }
    say({first: times[0], last: times.at(-1), count: times.length});
}
await llama.dispose();
