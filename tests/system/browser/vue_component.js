// Compile the single-file component on standard input to a module, as the plugins of Vite and webpack do.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const { compileScript, parse } = createRequire(`${process.cwd()}/`)("vue/compiler-sfc");
const { descriptor, errors } = parse(readFileSync(0, "utf8"));
if (errors.length) throw errors[0];
process.stdout.write(compileScript(descriptor, { id: "component", inlineTemplate: true }).content);
