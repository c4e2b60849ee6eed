// The status page. Each part draws itself from `station` whenever that changes.

import { receive, startActivation } from "./activation.js";
import { startAsk } from "./ask.js";
import { startMachine } from "./machine.js";
import { startModels } from "./models.js";
import { start } from "./station.js";

startAsk();
startActivation();
startModels();
startMachine();
start(receive);
