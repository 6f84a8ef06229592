"""Ask a served model in two languages with the plain `openai` client: an example to start from.

python serve/query.py --url http://127.0.0.1:8000/v1 "Once upon a time" "Es war einmal"

A server's key comes from PREALIGN_API_KEY.
"""

import argparse
import os
import sys

import openai

PROMPTS = ["The weather today is", "Das Wetter ist heute"]


def main() -> int:
    parser = argparse.ArgumentParser(description="Let a served model continue prompts.")
    parser.add_argument("prompts", nargs="*", default=PROMPTS, help="texts to continue (default: English and German)")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="the server's OpenAI-compatible root")
    parser.add_argument("--model", help="a served name (default: the first)")
    parser.add_argument("--max-tokens", type=int, default=40)
    arguments = parser.parse_args()
    client = openai.OpenAI(base_url=arguments.url, api_key=os.environ.get("PREALIGN_API_KEY", "none"))
    try:
        model = arguments.model or client.models.list().data[0].id
        for prompt in arguments.prompts:
            # A base model repeats itself at temperature 0; a small penalty keeps the example readable.
            answer = client.completions.create(
                model=model, prompt=prompt, max_tokens=arguments.max_tokens, temperature=0.0, frequency_penalty=0.5
            )
            print(f"{prompt} |{answer.choices[0].text}\n")
    except openai.APIError as error:
        print(f"{arguments.url}: {error}; start one with serve/serve.py", file=sys.stderr)
        return 69
    return 0


if __name__ == "__main__":
    sys.exit(main())
