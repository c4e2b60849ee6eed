// The call on the page, to copy: as curl, and as Python.

const CLIENT = ["caption", "query", "detect", "point", "segment"];
const quoted = (text) => (/^[\w./:=@-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
// Where curl's own syntax would read a name otherwise, a plain one stands for it.
const plain = (name) => (/^[\w. -]+$/.test(name) ? name : "photo.jpg");

export function curl(endpoint, name, args, file) {
  const fields = Object.entries(args).map(([key, value]) =>
    ` \\\n  --form-string ${quoted(`${key}=${typeof value === "string" ? value : JSON.stringify(value)}`)}`);
  return `curl ${quoted(`${endpoint}/${name}`)} -F ${quoted(`image_url=@${plain(file)}`)}${fields.join("")}`;
}

export function python(endpoint, name, args, file) {
  const photo = JSON.stringify(plain(file)), values = Object.values(args).map((value) => `, ${JSON.stringify(value)}`);
  if (CLIENT.includes(name)) {
    return [
      "import moondream  # pip install moondream", "from PIL import Image", "",
      `model = moondream.vl(endpoint=${JSON.stringify(endpoint)})`,
      `image = Image.open(${photo})`, `print(model.${name}(image${values.join("")}))`,
    ].join("\n");
  }
  const body = `{"image_url": image${Object.entries(args).map(([key, value]) =>
    `, ${JSON.stringify(key)}: json.loads(${JSON.stringify(JSON.stringify(value))})`).join("")}}`;
  return [
    "import base64, json, urllib.request", "",
    `image = "data:;base64," + base64.b64encode(open(${photo}, "rb").read()).decode()`,
    `body = json.dumps(${body}).encode()`,
    `request = urllib.request.Request(${JSON.stringify(`${endpoint}/${name}`)}, body, {"Content-Type": "application/json"})`,
    "print(json.load(urllib.request.urlopen(request)))",
  ].join("\n");
}
