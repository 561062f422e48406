"""Models behind an OpenAI-compatible completions server (vLLM, SGLang, llama.cpp, Ollama) as arms."""
