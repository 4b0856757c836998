// The openai package with nothing but its key from the environment: chat, stream, responses.
import OpenAI from "openai";

const client = new OpenAI();
const messages = [{ role: "user", content: "hello" }];

const chat = await client.chat.completions.create({ model: "gpt-standin", messages });
console.log("chat", chat.choices[0].message.content);

let streamed = "";
for await (const chunk of await client.chat.completions.create({ model: "gpt-standin", messages, stream: true })) {
  streamed += chunk.choices[0].delta.content ?? "";
}
console.log("stream", streamed);

const response = await client.responses.create({ model: "gpt-standin", input: "hello" });
console.log("responses", response.output_text);
