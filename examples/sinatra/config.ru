require "sinatra/base"

class Hello < Sinatra::Base
  RELEASE = File.basename(Dir.pwd)
  get("/") { "Sinatra on puma, release #{RELEASE}\n" }
  get("/healthz") { "ok\n" }
end

run Hello
