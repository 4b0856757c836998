// Node's own fetch, which in version 20 knows nothing of proxy variables.
const answer = await fetch("https://api.openai.com/v1/chat/completions", {
  method: "POST",
  headers: { authorization: `Bearer ${process.env.OPENAI_API_KEY}`, "content-type": "application/json" },
  body: JSON.stringify({ model: "gpt-standin", messages: [{ role: "user", content: "hello" }] }),
});
const { choices } = await answer.json();
console.log(answer.status, choices[0].message.content);
